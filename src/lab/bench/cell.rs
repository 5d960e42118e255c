//! What is measured: cells, each a way between two brokers and what is carried over it.

use super::body::Body;
use super::rig::Carrier;
use std::time::Duration;

/// One way and one load. Its fields are those of the JSON report.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(super) struct Cell {
    /// Its name, by which targets speak of it.
    pub name: String,
    /// Round trip between the sites, in milliseconds.
    pub rtt_ms: u64,
    /// Share of packets lost each way, 0.01 for one in a hundred. Anything but 0 needs true packets.
    pub loss: f64,
    /// Bandwidth each way in Mbit/s; `None`: what the machine gives.
    pub mbit: Option<u32>,
    /// Bytes of a body.
    pub bytes: usize,
    /// Queues side by side.
    pub queues: usize,
    /// What bodies are made of.
    pub body: Body,
    /// Messages that are carried, over all queues.
    #[serde(skip)]
    pub messages: u64,
    /// Whether latency is measured too.
    #[serde(skip)]
    pub latency: bool,
    /// Lanes of each queue.
    #[serde(skip)]
    pub partitions: u32,
    /// Gateways may use this many cores, the first ones of the machine; `None`: all.
    #[serde(skip)]
    pub gateway_cores: Option<usize>,
}

impl Cell {
    fn new(name: &str, rtt_ms: u64, queues: usize, messages: u64) -> Self {
        Self {
            name: name.to_owned(),
            rtt_ms,
            loss: 0.0,
            mbit: None,
            bytes: 1024,
            queues,
            body: Body::Json,
            messages,
            latency: false,
            partitions: 1,
            gateway_cores: None,
        }
    }

    fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    fn with_latency(mut self) -> Self {
        self.latency = true;
        self
    }

    fn body(mut self, body: Body, bytes: usize) -> Self {
        (self.body, self.bytes) = (body, bytes);
        self
    }

    fn loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self
    }

    fn mbit(mut self, mbit: u32) -> Self {
        self.mbit = Some(mbit);
        self
    }

    /// How many a carrier has to carry: federation takes three times as long for each, and everybody the same time.
    pub(super) fn messages(&self, carrier: Carrier) -> u64 {
        match carrier {
            Carrier::Setgate | Carrier::Shovel | Carrier::ShovelTuned => self.messages,
            Carrier::Federation => self.messages / 3,
        }
    }

    /// The time of one way.
    pub(super) fn one_way(&self) -> Duration {
        Duration::from_millis(self.rtt_ms) / 2
    }
}

/// The cells that stand for all: each target, and each axis once around the middle.
pub(super) fn named() -> Vec<Cell> {
    let (json, random) = (Body::Json, Body::Random);
    vec![
        Cell::new("near", 0, 1, 30_000).with_latency(),
        Cell::new("near-8-queues", 0, 8, 80_000).with_latency(),
        Cell::new("10ms", 10, 1, 30_000),
        Cell::new("50ms", 50, 1, 30_000),
        Cell::new("100ms", 100, 1, 30_000).with_latency(),
        Cell::new("200ms", 200, 1, 30_000),
        Cell::new("100ms-8-queues", 100, 8, 80_000),
        Cell::new("100ms-1%", 100, 1, 30_000).loss(0.01),
        Cell::new("20mbit", 40, 1, 15_000).body(json, 760).mbit(20),
        Cell::new("100B", 50, 1, 30_000).body(json, 100),
        Cell::new("16KiB", 50, 1, 8_000).body(json, 16 * 1024),
        Cell::new("256KiB", 50, 1, 600).body(json, 256 * 1024),
        Cell::new("random", 50, 1, 30_000).body(random, 1024),
    ]
}

/// What can be seen in some minutes: fewer messages in fewer cells.
pub(super) fn quick() -> Vec<Cell> {
    let quick = ["near", "near-8-queues", "100ms", "20mbit"];
    let cells = named().into_iter();
    cells
        .filter(|cell| quick.contains(&cell.name.as_str()))
        .map(|cell| Cell {
            messages: cell.messages * 2 / 3,
            ..cell
        })
        .collect()
}

/// What could take a gateway beyond its memory: at eight lanes, then at two hundred.
pub(super) fn memory() -> Vec<Cell> {
    /// Of eight queues each: two hundred lanes.
    const MANY: u32 = 25;
    vec![
        Cell::new("1MiB", 50, 8, 600).body(Body::Random, 1024 * 1024),
        Cell::new("backlog", 50, 8, 1_000_000),
        Cell::new("200-lanes", 50, 8, 40_000).partitions(MANY),
        Cell::new("200-lanes-1MiB", 50, 8, 600)
            .body(Body::Random, 1024 * 1024)
            .partitions(MANY),
    ]
}

/// The most that is carried near by, with gateways held to fewer cores than the machine has.
pub(super) fn cores() -> Vec<Cell> {
    let held = |(name, cores)| Cell {
        gateway_cores: Some(cores),
        ..Cell::new(name, 0, 8, 40_000)
    };
    [("1-core", 1), ("2-cores", 2)].map(held).into()
}

/// The whole product of the axes, besides the named ones.
pub(super) fn all() -> Vec<Cell> {
    let mut cells = named();
    for rtt in [0, 10, 50, 100, 200] {
        for (size, messages) in [
            (100, 60_000),
            (1024, 50_000),
            (16 * 1024, 8_000),
            (256 * 1024, 600),
        ] {
            for queues in [1, 8] {
                for body in [Body::Json, Body::Random] {
                    let kind = if body == Body::Json { "json" } else { "random" };
                    let name = format!("{rtt}ms-{size}B-{queues}q-{kind}");
                    cells.push(Cell::new(&name, rtt, queues, messages).body(body, size));
                }
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_cells_name_is_its_own() {
        let cells = all();
        let names: BTreeSet<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names.len(), cells.len());
        assert_eq!(quick().len(), 4);
    }
}
