//! Bodies: none, in one frame, in several, too large to be held; and what may not come between.

use super::*;
use proptest::prelude::*;

fn consuming_bodies(events: Vec<Event>) -> Vec<(u64, Option<Bytes>)> {
    events
        .into_iter()
        .map(|event| match event {
            Event::Delivered {
                delivered, body, ..
            } => (delivered.body_bytes, body),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn an_empty_body_has_no_frame() {
    let mut client = Client::consuming();
    client.hears(
        [
            server::deliver(1, 1, &[0, 0], b""),
            server::deliver(1, 2, &[0, 0], b"x"),
        ]
        .concat(),
    );
    assert_eq!(
        consuming_bodies(client.events()),
        [(0, Some(Bytes::new())), (1, Some(Bytes::from_static(b"x")))]
    );
}

#[test]
fn a_body_in_one_frame_is_a_slice_of_what_was_read() {
    let mut client = Client::consuming();
    let read = Bytes::from(server::deliver(1, 1, &[0, 0], &[b'x'; 3000]));
    client.hears(read.clone());
    let [(_, Some(body))] = &consuming_bodies(client.events())[..] else {
        panic!("no body");
    };
    assert!(read.as_ptr_range().contains(&body.as_ptr()));
}

#[test]
fn a_body_in_several_frames_is_whole() {
    let mut client = Client::consuming();
    let body: Vec<u8> = (0..251).cycle().take(6_000).collect();
    for at_most in [1, 7, 1000, 4088] {
        client.hears(
            [
                server::deliver_method(1, 1, b"", b""),
                server::header(1, body.len() as u64, &[0, 0]),
                // A frame with nothing in it says nothing.
                server::frame(3, 1, b""),
                server::body_frames(1, &body, at_most),
            ]
            .concat(),
        );
        assert_eq!(
            consuming_bodies(client.events()),
            [(6_000, Some(Bytes::from(body.clone())))]
        );
    }
}

#[test]
fn a_body_above_the_limit_comes_in_pieces_and_is_never_held() {
    let mut client = Client::consuming();
    let body = vec![b'x'; BODY_BYTES_MAX + 1];
    let read = Bytes::from(server::deliver(1, 1, &[0, 0], &body));
    client.hears(read.clone());
    let mut events = client.events().into_iter();
    let Some(Event::Delivered {
        delivered,
        body: None,
        ..
    }) = events.next()
    else {
        panic!("not in pieces");
    };
    assert_eq!(delivered.body_bytes, body.len() as u64);
    let mut bytes = 0;
    for event in events {
        let Event::Piece { piece, left, .. } = event else {
            panic!("{event:?}");
        };
        assert!(read.as_ptr_range().contains(&piece.as_ptr()));
        bytes += piece.len();
        assert_eq!(left, (body.len() - bytes) as u64);
    }
    assert_eq!(bytes, body.len());
    // The next delivery is itself again.
    client.hears(server::deliver(1, 2, &[0, 0], b"x"));
    assert_eq!(consuming_bodies(client.events()).len(), 1);
}

#[test]
fn nothing_else_of_its_channel_comes_between_a_content() {
    let method = server::deliver_method(1, 1, b"", b"");
    let header = server::header(1, 10, &[0, 0]);
    let part = server::frame(3, 1, b"12345");
    let before_header = "a method on channel 1 where a content header is due";
    let before_body = "a method on channel 1 where a content body is due";
    for (frames, what) in [
        (vec![&method, &method], before_header),
        (
            vec![&method, &part],
            "a content body on channel 1 where a content header is due",
        ),
        (vec![&method, &header, &method], before_body),
        (vec![&method, &header, &part, &method], before_body),
        (
            vec![&method, &header, &header],
            "a content header where a content body is due",
        ),
        (vec![&header], "a content header where a method is due"),
        (
            vec![&part],
            "a content body on channel 1 where a method is due",
        ),
        (
            vec![&method, &header, &part, &part, &part],
            "a content body on channel 1 where a method is due",
        ),
        (
            vec![&method, &server::header(1, 9, &[0, 0]), &part, &part],
            "a content body on channel 1 that is longer than announced",
        ),
    ] {
        let mut client = Client::consuming();
        client.hears(frames.into_iter().flatten().copied().collect::<Vec<u8>>());
        assert_eq!(client.events().pop(), Some(protocol(what)));
        assert_eq!(server::methods(&client.written()), [(10, 50)]);
    }
}

#[test]
fn other_channels_and_heartbeats_come_between_a_content() {
    let mut client = Client::consuming();
    client.asks(Command::OpenChannel {
        channel: ChannelId(2),
    });
    client.hears(
        [
            server::deliver_method(1, 1, b"", b""),
            server::heartbeat(),
            server::channel_open_ok(2),
            server::header(1, 2, &[0, 0]),
            server::method(0, 10, 61, &[]),
            server::body_frames(1, b"xy", 1),
        ]
        .concat(),
    );
    let events = client.events();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(matches!(events[2], Event::Delivered { .. }));
}

#[test]
fn a_publish_in_pieces_is_one_content_and_counts_when_it_is_whole() {
    let mut client = Client::publishing();
    client.asks(publish(1, Content::InPieces(10_000)));
    let piece = |len| Command::PublishPiece {
        channel: ONE,
        piece: Bytes::from(vec![b'x'; len]),
    };
    client.asks(piece(9_000));
    client.asks(publish(2, Content::Whole(Bytes::new())));
    assert!(matches!(
        client.events()[..],
        [Event::Outcome {
            id: PublishId(2),
            outcome: Outcome::Unencodable { .. },
            ..
        }]
    ));
    client.asks(piece(1_000));
    // Of none that is unfinished: passed over.
    client.asks(piece(1_000));
    client.publishes(3, b"abc");
    let frames = server::frames(&client.written());
    let sizes: Vec<usize> = frames
        .iter()
        .filter(|frame| frame.kind == 3)
        .map(|frame| frame.payload.len())
        .collect();
    assert_eq!(sizes, [4088, 4088, 824, 1000, 3]);
    client.hears(server::ack(1, 2, true));
    assert_eq!(
        client.events(),
        [
            outcome(1, Outcome::Confirmed),
            outcome(3, Outcome::Confirmed)
        ]
    );
}

#[test]
fn a_publish_whose_body_was_not_finished_is_unsent_and_ends_its_connection() {
    let mut client = Client::publishing();
    client.publishes(1, b"a");
    client.asks(publish(2, Content::InPieces(10_000)));
    client.written();
    client.asks(Command::CloseChannel { channel: ONE });
    assert_eq!(server::methods(&client.written()), [(10, 50)]);
    client.hears(server::connection_close_ok());
    assert_eq!(
        client.events(),
        [
            outcome(1, unknown("closed by this gateway")),
            outcome(
                2,
                Outcome::Unsent {
                    cause: "its body wasn't finished: closed by this gateway".to_owned()
                }
            ),
            lost_channel("closed by this gateway"),
            Event::Ended(Ended::Closed)
        ]
    );
}

#[test]
fn a_confirm_of_a_body_that_is_not_whole_breaks_the_protocol() {
    let mut client = Client::publishing();
    client.asks(publish(1, Content::InPieces(10)));
    client.hears(server::ack(1, 1, false));
    assert!(matches!(
        client.events().last(),
        Some(Event::Ended(Ended::Protocol { .. }))
    ));
}

#[test]
fn a_large_body_is_written_from_where_it_lies() {
    let mut client = Client::publishing_with(EngineSettings {
        frame_bytes_max: 16_384,
        ..settings()
    });
    let body = Bytes::from(vec![b'x'; 20_000]);
    client.asks(publish(1, Content::Whole(body.clone())));
    let output = client.engine.output();
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    let filled = output.chunks_vectored(&mut slices);
    let shared: usize = slices[..filled]
        .iter()
        .filter(|slice| body.as_ptr_range().contains(&slice.as_ptr()))
        .map(|slice| slice.len())
        .sum();
    // The rest is a frame of less than 4 KiB, which is copied.
    assert_eq!(shared, 16_376);
}

proptest! {
    #[test]
    fn what_is_published_is_what_a_broker_reads(
        bodies in prop::collection::vec(prop_oneof![0usize..20, 4000usize..9000], 0..8),
        frame_bytes_max in prop::sample::select(&[4096u32, 6000, 16_384][..]),
        writes in prop::collection::vec(prop_oneof![1usize..3000, Just(usize::MAX)], 1..20),
    ) {
        let mut client = Client::publishing_with(EngineSettings {
            frame_bytes_max,
            ..settings()
        });
        let mut expected = Vec::new();
        for (at, len) in bodies.iter().enumerate() {
            let body: Vec<u8> = (0..=u8::MAX).cycle().skip(at).take(*len).collect();
            let id = at as u64;
            client.asks(publish(id, Content::Whole(Bytes::from(body.clone()))));
            expected.push((with_token(id).as_bytes().to_vec(), body));
        }
        // Vectored writes that take what they like.
        let mut written = Vec::new();
        let mut sizes = writes.iter().cycle();
        while client.engine.output_bytes() > 0 {
            let output = client.engine.output();
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            let filled = output.chunks_vectored(&mut slices);
            prop_assert!(!output.chunk().is_empty());
            prop_assert!(slices[..filled].iter().all(|slice| !slice.is_empty()));
            let offered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            prop_assert!(!offered.is_empty());
            let taken = offered.len().min(*sizes.next().unwrap());
            written.extend_from_slice(&offered[..taken]);
            output.advance(taken);
        }
        let mut read: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for frame in server::frames(&written) {
            prop_assert!(frame.payload.len() <= frame_bytes_max as usize - 8);
            match frame.kind {
                1 => prop_assert_eq!(frame.id(), (60, 40)),
                2 => read.push((frame.payload[12..].to_vec(), Vec::new())),
                _ => read.last_mut().unwrap().1.extend(frame.payload),
            }
        }
        prop_assert_eq!(read, expected);
    }
}
