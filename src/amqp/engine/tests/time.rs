//! Heartbeats, silence, late answers.

use super::*;

impl Client {
    /// Moves the clock on and ticks.
    fn ticks_after(&mut self, duration: Duration) {
        self.now += duration;
        self.engine.handle(Input::Tick, self.now);
    }

    fn due_in(&self) -> Option<Duration> {
        self.engine
            .deadline()
            .map(|due| due.duration_since(self.now))
    }
}

#[test]
fn a_heartbeat_is_written_when_nothing_was_for_half_of_it() {
    let mut client = Client::opened();
    assert_eq!(client.due_in(), Some(HEARTBEAT / 2));
    client.ticks_after(Duration::from_secs(4));
    assert_eq!(client.written(), b"");
    assert_eq!(client.due_in(), Some(Duration::from_secs(1)));
    client.ticks_after(Duration::from_secs(1));
    assert_eq!(client.written(), server::heartbeat());
    assert_eq!(client.due_in(), Some(HEARTBEAT / 2));

    // Whatever is written counts.
    client.now += Duration::from_secs(3);
    client.asks(Command::OpenChannel { channel: ONE });
    client.written();
    client.hears(server::channel_open_ok(1));
    assert_eq!(client.due_in(), Some(HEARTBEAT / 2));
}

#[test]
fn heartbeats_dont_pile_up_where_nothing_can_be_written() {
    let mut client = Client::opened();
    for _ in 0..50 {
        client.ticks_after(HEARTBEAT / 2);
        client.hears(server::heartbeat());
        assert!(client.due_in().unwrap() > Duration::ZERO, "no busy loop");
    }
    assert_eq!(client.written(), server::heartbeat());
}

#[test]
fn a_peer_that_is_silent_for_three_heartbeats_is_gone() {
    let mut client = Client::publishing();
    client.publishes(1, b"a");
    for _ in 0..5 {
        client.ticks_after(HEARTBEAT / 2);
        assert!(!client.engine.is_ended());
        client.written();
    }
    client.ticks_after((HEARTBEAT / 2).saturating_sub(Duration::from_nanos(1)));
    assert!(!client.engine.is_ended());
    assert_eq!(client.due_in(), Some(Duration::from_nanos(1)));
    client.ticks_after(Duration::from_nanos(1));
    let said = "nothing came from the broker for 30s, not even a heartbeat";
    assert_eq!(
        client.events(),
        [
            outcome(1, unknown(said)),
            lost_channel(said),
            Event::Ended(Ended::Silent {
                what: said.to_owned()
            })
        ]
    );
    assert_eq!(client.engine.deadline(), None);
}

#[test]
fn heartbeats_keep_a_connection() {
    let mut client = Client::opened();
    for _ in 0..100 {
        client.ticks_after(HEARTBEAT);
        client.hears(server::heartbeat());
    }
    assert_eq!(client.events(), []);
}

#[test]
fn silence_while_nothing_is_read_is_not_the_peers() {
    let mut client = Client::with_channel();
    client.asks(consume());
    client.engine.reading(true, client.now);
    for _ in 0..100 {
        client.ticks_after(HEARTBEAT / 2);
        client.written();
        assert_eq!(client.due_in(), Some(HEARTBEAT / 2), "ours alone is due");
    }
    client.engine.reading(false, client.now);
    assert_eq!(client.due_in(), Some(HEARTBEAT / 2));
    client.ticks_after(HEARTBEAT / 2);
    assert_eq!(
        client.due_in(),
        Some(ANSWER_TIMEOUT.saturating_sub(HEARTBEAT / 2))
    );
    assert!(!client.engine.is_ended());
    client.ticks_after(ANSWER_TIMEOUT.saturating_sub(HEARTBEAT / 2));
    assert!(client.engine.is_ended(), "the clock began anew");
}

#[test]
fn to_go_on_reading_again_and_again_begins_no_wait_anew() {
    let mut client = Client::opened();
    for _ in 0..30 {
        client.ticks_after(Duration::from_secs(1));
        client.engine.reading(false, client.now);
    }
    assert!(client.engine.is_ended());
}

#[test]
fn a_server_that_never_answers_is_given_up_at_each_step() {
    type Step = fn(&mut Client);
    let steps: [(Step, &str); 5] = [
        (|_| {}, "connection.start"),
        (|client| client.hears(server::start()), "connection.tune"),
        (
            |client| client.hears([server::start(), server::tune(0, 0)].concat()),
            "connection.open-ok",
        ),
        (
            |client| {
                client.hears(server::handshake());
                client.asks(Command::OpenChannel { channel: ONE });
                client.asks(consume());
                client.now += Duration::from_secs(5);
                client.hears(server::channel_open_ok(1));
            },
            "basic.consume-ok",
        ),
        (
            |client| {
                client.hears(server::handshake());
                client.asks(Command::Close);
            },
            "connection.close-ok",
        ),
    ];
    for (step, answer) in steps {
        let mut client = Client::connecting();
        step(&mut client);
        while let Some(due) = client.engine.deadline() {
            client.now = due;
            client.engine.handle(Input::Tick, due);
            client.written();
            assert!(client.engine.deadline() != Some(due), "a busy loop");
        }
        assert_eq!(
            client.events().last(),
            Some(&Event::Ended(Ended::Silent {
                what: format!("the broker sent no {answer} within 7s")
            }))
        );
    }
}

#[test]
fn publishes_may_wait_for_their_confirms_for_ever() {
    let mut client = Client::publishing();
    client.publishes(1, b"a");
    for _ in 0..100 {
        client.ticks_after(HEARTBEAT);
        client.hears(server::heartbeat());
    }
    assert_eq!(client.events(), []);
}

#[test]
fn no_heartbeats_are_neither_sent_nor_missed() {
    let mut client = Client::opened_with(EngineSettings {
        heartbeat: Duration::ZERO,
        answer_timeout: Duration::MAX,
        ..settings()
    });
    assert_eq!(client.engine.deadline(), None);
    client.asks(Command::OpenChannel { channel: ONE });
    assert_eq!(client.engine.deadline(), None);
}

#[test]
fn a_command_behind_another_waits_from_when_that_one_was_answered() {
    let mut client = Client::opened_with(EngineSettings {
        heartbeat: Duration::ZERO,
        ..settings()
    });
    client.asks(Command::OpenChannel { channel: ONE });
    client.asks(consume());
    client.now += Duration::from_secs(5);
    client.hears(server::channel_open_ok(1));
    assert_eq!(client.due_in(), Some(ANSWER_TIMEOUT));
}
