//! Bytes in, frames out, however the bytes were split.
//!
//! Owns the part of a frame that has come so far. Promises to hold no more than one frame's bound and one piece. After
//! an error it is of no more use: where the next frame begins is unknown.

use super::frame::{Frame, FrameError, HEAD_BYTES, Kind, SMALL_FRAME_BYTES_MAX};
use bytes::{Buf, Bytes, BytesMut};

/// Reads frames from one direction of one stream.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    batch_bytes_max: usize,
}

impl Decoder {
    /// Takes batches up to [`super::frame_bytes_max`] of what it is given, other frames up to
    /// [`SMALL_FRAME_BYTES_MAX`].
    pub fn new(message_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            batch_bytes_max: super::frame_bytes_max(message_max),
        }
    }

    /// Takes one piece. Call [`Decoder::frame`] until it has none, before the next.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole frame, if there is one.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        let Some(octet) = rest.first() else {
            return Ok(None);
        };
        let kind = Kind::from_octet(*octet)?;
        let bytes_max = match kind {
            Kind::Batch | Kind::Packed => self.batch_bytes_max,
            Kind::Hello
            | Kind::Welcome
            | Kind::Refusal
            | Kind::Answers
            | Kind::Canary
            | Kind::CanaryEcho
            | Kind::Ask
            | Kind::Known => SMALL_FRAME_BYTES_MAX,
        };
        if length > bytes_max {
            return Err(FrameError::TooLong {
                bytes: length,
                bytes_max,
            });
        }
        if rest.len() < length {
            // At once, and exactly: a buffer that grows is copied, and is twice as large in the end.
            let missing = length - rest.len();
            self.buffer.reserve(missing);
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(HEAD_BYTES + length).freeze();
        frame.advance(HEAD_BYTES + 1);
        Frame::decode(kind, frame, bytes_max).map(Some)
    }

    /// Reads everything in a buffer, for tests and tools.
    pub fn frames(&mut self, piece: &Bytes) -> Result<Vec<Frame>, FrameError> {
        self.push(piece);
        let mut frames = Vec::new();
        while let Some(frame) = self.frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{FieldValue, Properties, RawProperties};
    use crate::link::{
        Arrival, Batcher, Canary, Credit, Hello, Incarnation, PROTOCOL, Packing, Refusal,
        RefusalReason, Welcome,
    };
    use crate::model::{
        Address, Answer, Epoch, Lineage, Marking, MessageId, Parcel, ParcelNumber, Partition,
        Reason, Retry, Revision, Round, Slot, Way, Why,
    };
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    const MESSAGE_MAX: usize = 1024 * 1024;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn properties() -> impl Strategy<Value = RawProperties> {
        (
            proptest::option::of(bytes(255)),
            proptest::option::of(any::<u8>()),
            proptest::collection::vec((bytes(20), bytes(40), any::<i64>()), 0..4),
        )
            .prop_map(|(message_id, delivery_mode, headers)| {
                let mut properties = Properties {
                    delivery_mode,
                    message_id,
                    ..Properties::default()
                };
                for (name, text, number) in headers {
                    let value = FieldValue::Array(vec![
                        FieldValue::Str(text),
                        FieldValue::I64(number),
                        FieldValue::Void,
                    ]);
                    properties.headers_mut().set(&name, value);
                }
                RawProperties::of(&properties).unwrap()
            })
    }

    prop_compose! {
        fn parcel()(
            number in any::<u64>(),
            id in proptest::option::of(bytes(60)),
            slot in proptest::option::of(any::<u32>()),
            why in proptest::sample::select(Why::ALL),
            exchange in bytes(255),
            routing_key in bytes(255),
            properties in properties(),
            body in bytes(3_000),
            sent_before in any::<bool>(),
            revision in any::<i64>(),
            way in way(),
        ) -> Parcel {
            Parcel {
                number: ParcelNumber(number),
                lineage: Lineage("0198".into()),
                epoch: Epoch(number),
                revision: Revision(revision),
                id: id.map(MessageId),
                round: Round(2),
                retry: Retry(1),
                slot: slot.map(Slot),
                why,
                to: "bj-1".parse().unwrap(),
                address: Address { exchange, routing_key },
                properties,
                body,
                sent_before,
                marking: Marking::AtReceiver(way),
            }
        }
    }

    prop_compose! {
        fn way()(
            path in prop::collection::vec("[a-z]{1,8}", 0..4),
            user_id in proptest::option::of(bytes(60)),
            replayed in any::<bool>(),
            redelivered in any::<bool>(),
        ) -> Way {
            Way {
                path: path.iter().map(|unit| unit.parse().unwrap()).collect(),
                user_id,
                replayed,
                redelivered,
            }
        }
    }

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            space: "trade".parse().unwrap(),
            lineage: Lineage("one".into()),
            epoch: Epoch(7),
            revision: Revision(-1),
            from: "sh-1".parse().unwrap(),
            gateway: "sh-1-a".parse().unwrap(),
            to: "bj-1".parse().unwrap(),
            source: "orders".parse().unwrap(),
            partition: Partition(3),
            incarnation: Incarnation(u64::MAX),
        }
    }

    fn small_frames() -> Vec<Frame> {
        let canary = Canary {
            sent_nanos: 5,
            lineage: Lineage::default(),
            epoch: Epoch(1),
            unit: "sh-1".parse().unwrap(),
            gateway: "sh-1-a".parse().unwrap(),
            leave: true,
        };
        vec![
            Frame::Hello(hello()),
            Frame::Welcome(Welcome {
                gateway: "bj-1-a".parse().unwrap(),
                credit: Credit::MAX,
            }),
            Frame::Refusal(Refusal::new(RefusalReason::Lineage, "另一个世界")),
            Frame::Answers(vec![
                (ParcelNumber(4), Answer::Accepted),
                (
                    ParcelNumber(9),
                    Answer::Refused {
                        reason: Reason::Hops,
                        cause: "round and round".into(),
                    },
                ),
            ]),
            Frame::Canary(canary.clone()),
            Frame::CanaryEcho(canary),
        ]
    }

    fn batch(parcels: Vec<Parcel>) -> Frame {
        let arrivals = parcels
            .into_iter()
            .map(|parcel| Arrival::Readable(Box::new(parcel)));
        Frame::Batch(arrivals.collect())
    }

    fn wire(frames: &[Frame]) -> Vec<u8> {
        frames
            .iter()
            .flat_map(|frame| frame.encode().unwrap())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_encoded_is_decoded_however_the_bytes_are_split(
            parcels in proptest::collection::vec(parcel(), 0..5),
            cuts in proptest::collection::vec(1..4_000usize, 1..40),
        ) {
            let mut frames = small_frames();
            frames.push(batch(parcels));
            frames.extend(small_frames());
            let bytes = wire(&frames);
            let mut decoder = Decoder::new(MESSAGE_MAX);
            let mut back = Vec::new();
            let mut rest = bytes.as_slice();
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                back.extend(decoder.frames(&Bytes::copy_from_slice(piece)).unwrap());
                rest = after;
            }
            prop_assert_eq!(back, frames);
        }

        #[test]
        fn no_bytes_make_it_panic(kind in 1..=9u8, garbage in bytes(2_000)) {
            let mut decoder = Decoder::new(MESSAGE_MAX);
            let _ = decoder.frames(&garbage);
            let mut framed = u32::try_from(garbage.len() + 1).unwrap().to_be_bytes().to_vec();
            framed.push(kind);
            framed.extend_from_slice(&garbage);
            let _ = Decoder::new(MESSAGE_MAX).frames(&Bytes::from(framed));
        }

        #[test]
        fn a_flipped_octet_is_an_error_or_another_frame_but_no_panic(
            parcel in parcel(), at in any::<proptest::sample::Index>(), flip in 1..=255u8,
        ) {
            let mut bytes = wire(&[batch(vec![parcel])]);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let _ = Decoder::new(MESSAGE_MAX).frames(&Bytes::from(bytes));
        }

        #[test]
        fn batched_parcels_keep_their_order_and_their_values(
            parcels in proptest::collection::vec(parcel(), 1..60),
            packing in proptest::sample::select(&[Packing::Off, PACKED][..]),
        ) {
            let start = start();
            let mut batcher = Batcher::new(MESSAGE_MAX);
            batcher.set_packing(packing);
            let mut out = Vec::new();
            for parcel in &parcels {
                batcher.push(parcel, start, &mut out).unwrap();
            }
            out.extend(batcher.take(start));
            prop_assert!(batcher.deadline().is_none());
            let mut back = Vec::new();
            for frame in &out {
                prop_assert!(frame.len() <= 64 * 1024 + 8);
                for frame in Decoder::new(MESSAGE_MAX).frames(frame).unwrap() {
                    let Frame::Batch(arrivals) = frame else { panic!("{frame:?}") };
                    back.extend(arrivals);
                }
            }
            let sent: Vec<_> =
                parcels.into_iter().map(|parcel| Arrival::Readable(Box::new(parcel))).collect();
            prop_assert_eq!(back, sent);
        }
    }

    #[allow(clippy::disallowed_methods)] // any instant will do: only differences count
    fn start() -> Instant {
        Instant::now()
    }

    fn parcel_of(number: u64, body_bytes: usize) -> Parcel {
        Parcel {
            number: ParcelNumber(number),
            lineage: Lineage("one".into()),
            epoch: Epoch(1),
            revision: Revision(1),
            id: None,
            round: Round(1),
            retry: Retry(0),
            slot: None,
            why: Why::Owner,
            to: "bj-1".parse().unwrap(),
            address: Address {
                exchange: Bytes::new(),
                routing_key: Bytes::new(),
            },
            properties: RawProperties::default(),
            body: Bytes::from(vec![7; body_bytes]),
            sent_before: false,
            marking: Marking::AtReceiver(Way::default()),
        }
    }

    const PACKED: Packing = Packing::On {
        patience: Duration::from_millis(10),
    };

    #[test]
    fn a_packed_frame_waits_for_company_while_parcels_come_fast_and_no_longer() {
        let start = start();
        let ms = Duration::from_millis;
        let mut batcher = Batcher::new(MESSAGE_MAX);
        batcher.set_packing(PACKED);
        let mut out = Vec::new();
        // 10 MB/s: of a frame of 64 KiB each seventh ends within a millisecond.
        for number in 0..200 {
            let now = start + ms(number);
            if batcher.deadline().is_some_and(|due| due <= now) {
                out.extend(batcher.take(now));
            }
            for _ in 0..10 {
                batcher
                    .push(&parcel_of(number, 1_000), now, &mut out)
                    .unwrap();
            }
        }
        let late = out.split_off(out.len() - 10);
        let mut decoder = Decoder::new(MESSAGE_MAX);
        let parcels = |frame: &Bytes| match decoder.frames(frame).unwrap().remove(0) {
            Frame::Batch(arrivals) => arrivals.len(),
            other => panic!("{other:?}"),
        };
        let fewest = late.iter().map(parcels).min();
        assert!(fewest >= Some(50), "{fewest:?} in a frame");
        let _ = batcher.take(start + ms(200));
        // A tenth of it: nobody waits for a frame that would take long to be full.
        for number in 0..200 {
            let now = start + ms(200 + number);
            batcher
                .push(&parcel_of(number, 1_000), now, &mut out)
                .unwrap();
            if number > 150 {
                assert!(batcher.deadline() <= Some(now), "{number}");
            }
            if batcher.deadline().is_some_and(|due| due <= now) {
                out.extend(batcher.take(now));
            }
        }
    }

    #[test]
    fn a_parcel_waits_for_nobody_on_a_stream_that_is_not_packed() {
        let mut batcher = Batcher::new(MESSAGE_MAX);
        let (start, mut out) = (start(), Vec::new());
        assert_eq!(batcher.deadline(), None);
        batcher.push(&parcel_of(1, 100), start, &mut out).unwrap();
        assert_eq!(batcher.deadline(), Some(start));
        assert!(batcher.take(start).is_some());
        assert_eq!((batcher.deadline(), batcher.take(start)), (None, None));
        let soon = start + Duration::from_micros(1);
        batcher.push(&parcel_of(2, 100), soon, &mut out).unwrap();
        batcher.push(&parcel_of(3, 100), soon, &mut out).unwrap();
        assert!(out.is_empty());
        assert_eq!(batcher.deadline(), Some(soon));
        assert!(batcher.take(soon).is_some());
    }

    #[test]
    fn a_large_parcel_goes_in_a_frame_of_its_own_and_one_above_the_bound_not_at_all() {
        let mut batcher = Batcher::new(MESSAGE_MAX);
        let (start, mut out) = (start(), Vec::new());
        batcher.push(&parcel_of(1, 100), start, &mut out).unwrap();
        let large = parcel_of(2, MESSAGE_MAX);
        batcher.push(&large, start, &mut out).unwrap();
        assert_eq!(
            out.len(),
            3,
            "the small one, then the large one's head and body"
        );
        assert_eq!(out[2].as_ptr(), large.body.as_ptr(), "which isn't copied");
        let error = batcher
            .push(&parcel_of(3, 2 * MESSAGE_MAX), start, &mut out)
            .unwrap_err();
        assert_eq!(
            (error.number, error.reason),
            (ParcelNumber(3), Reason::TooLarge)
        );
        let mut decoder = Decoder::new(MESSAGE_MAX);
        let pieces = out.iter().map(|piece| decoder.frames(piece).unwrap());
        let arrived: Vec<Frame> = pieces.flatten().collect();
        let sent = [parcel_of(1, 100), large];
        let sent = sent.map(|parcel| Frame::Batch(vec![Arrival::Readable(Box::new(parcel))]));
        assert_eq!(arrived, sent);
    }

    #[test]
    fn a_packed_stream_is_smaller_and_one_that_gains_nothing_goes_as_it_is() {
        let start = start();
        let mut noise = vec![0; 40_000];
        fastrand::Rng::with_seed(2).fill(&mut noise);
        let noise = Bytes::from(noise);
        let mut batcher = Batcher::new(MESSAGE_MAX);
        batcher.set_packing(PACKED);
        let mut decoder = Decoder::new(MESSAGE_MAX);
        for (body, fewer) in [(Bytes::from(vec![7; 500_000]), true), (noise, false)] {
            let parcel = Parcel {
                body: body.clone(),
                ..parcel_of(1, 0)
            };
            let mut out = Vec::new();
            for _ in 0..5 {
                batcher.push(&parcel, start, &mut out).unwrap();
            }
            out.extend(batcher.take(start));
            let sent: usize = out.iter().map(Bytes::len).sum();
            assert_eq!(sent < 5 * body.len() / 2, fewer, "{sent}");
            let frames = out.iter().flat_map(|piece| decoder.frames(piece).unwrap());
            let bodies = frames.map(|frame| match frame {
                Frame::Batch(arrivals) => arrivals.len(),
                other => panic!("{other:?}"),
            });
            assert_eq!(bodies.sum::<usize>(), 5);
        }
    }

    #[test]
    fn after_noise_packing_is_tried_again_whatever_the_size_of_bodies() {
        let start = start();
        for body_bytes in [40_000, 200_000] {
            let mut noise = vec![0; body_bytes];
            fastrand::Rng::with_seed(4).fill(&mut noise);
            let noise = Parcel {
                body: noise.into(),
                ..parcel_of(1, 0)
            };
            let mut batcher = Batcher::new(MESSAGE_MAX);
            batcher.set_packing(PACKED);
            let mut out = Vec::new();
            for _ in 0..16 {
                batcher.push(&noise, start, &mut out).unwrap();
                out.extend(batcher.take(start));
            }
            out.clear();
            batcher
                .push(&parcel_of(2, body_bytes), start, &mut out)
                .unwrap();
            out.extend(batcher.take(start));
            let sent: usize = out.iter().map(Bytes::len).sum();
            assert!(sent < body_bytes / 10, "{sent}");
        }
    }

    #[test]
    fn a_frame_above_the_bound_of_its_kind_is_refused_by_its_head() {
        let head = |length: u32, kind: u8| {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.push(kind);
            Decoder::new(MESSAGE_MAX).frames(&Bytes::from(bytes))
        };
        assert!(matches!(
            head(u32::MAX, 4),
            Err(crate::link::FrameError::TooLong { .. })
        ));
        assert!(matches!(
            head(600 * 1024, 5),
            Err(crate::link::FrameError::TooLong { .. })
        ));
        assert_eq!(head(600 * 1024, 4), Ok(vec![]));
        assert_eq!(head(0, 1), Err(crate::link::FrameError::Empty));
        assert_eq!(head(9, 99), Err(crate::link::FrameError::UnknownKind(99)));
    }

    #[test]
    fn a_batch_of_more_parcels_than_a_sender_makes_is_refused() {
        let mut bytes = (1 + 2 * 5_000u32).to_be_bytes().to_vec();
        bytes.push(4);
        bytes.extend([0x0a, 0x00].repeat(5_000));
        let error = Decoder::new(MESSAGE_MAX)
            .frames(&Bytes::from(bytes))
            .unwrap_err();
        assert!(
            matches!(error, crate::link::FrameError::TooMany { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_parcel_that_cannot_be_understood_is_refused_alone() {
        let mut bytes = wire(&[batch(vec![
            parcel_of(1, 4),
            parcel_of(2, 4),
            parcel_of(3, 4),
        ])]);
        // The second parcel goes to a unit whose name is none: the same length, one octet changed.
        let names = bytes
            .windows(4)
            .enumerate()
            .filter(|(_, window)| *window == b"bj-1");
        let second = names.map(|(at, _)| at).nth(1).unwrap();
        bytes[second] = b'/';
        let frames = Decoder::new(MESSAGE_MAX)
            .frames(&Bytes::from(bytes))
            .unwrap();
        let [Frame::Batch(arrivals)] = frames.as_slice() else {
            panic!("{frames:?}")
        };
        assert!(matches!(arrivals[0], Arrival::Readable(_)));
        assert!(
            matches!(
                arrivals[1],
                Arrival::Unreadable {
                    number: ParcelNumber(2),
                    ..
                }
            ),
            "{:?}",
            arrivals[1]
        );
        assert!(matches!(arrivals[2], Arrival::Readable(_)));
    }
}
