//! Frames out of a byte stream that comes in any pieces (specification, section 4.2.3).
//!
//! Owns the beginning of a frame whose rest hasn't come. Promises that a frame within one piece is a slice of it, that a
//! frame over several is copied once into a buffer of its known size, and that no more than one frame of the allowed
//! size is held. Knows nothing of what frames mean.

use super::fault::{Code, Fault};
use bytes::{Buf, Bytes, BytesMut};

/// Type octet, channel and size.
pub(super) const HEAD_BYTES: usize = 7;
/// What a frame takes beside its payload: its head and its end octet.
pub(super) const FRAME_OVERHEAD: usize = HEAD_BYTES + 1;
/// The last octet of every frame.
pub(super) const FRAME_END: u8 = 0xCE;
/// The largest payload before a size is negotiated. The specification says 4,096 bytes for the whole frame, but
/// `connection.start` carries a table of any size: RabbitMQ's takes 500 bytes, plugins and long node names add to it.
pub(super) const UNNEGOTIATED_BYTES_MAX: usize = 64 * 1024;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Header,
    Body,
    Heartbeat,
}

impl Kind {
    pub(super) fn octet(self) -> u8 {
        match self {
            Self::Method => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }
}

/// One frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) channel: u16,
    pub(super) payload: Bytes,
}

/// A frame's head, checked.
#[derive(Debug, Clone, Copy)]
struct Head {
    kind: Kind,
    channel: u16,
    size: usize,
}

/// A frame whose rest hasn't come.
#[derive(Debug)]
enum Begun {
    Nothing,
    Head { bytes: [u8; HEAD_BYTES], len: usize },
    Payload { head: Head, bytes: BytesMut },
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct FrameReader {
    payload_bytes_max: usize,
    begun: Begun,
    /// Whether a frame has come: before that, what can't be read tells which other protocol the peer speaks.
    greeted: bool,
}

impl FrameReader {
    pub(super) fn new() -> Self {
        Self {
            payload_bytes_max: UNNEGOTIATED_BYTES_MAX,
            begun: Begun::Nothing,
            greeted: false,
        }
    }

    /// From now on, frames are at most so large as a whole.
    pub(super) fn negotiated(&mut self, frame_bytes_max: usize) {
        self.payload_bytes_max = frame_bytes_max.saturating_sub(FRAME_OVERHEAD);
    }

    /// The next whole frame; `None` when `input` is used up.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, Fault> {
        match self.begun {
            Begun::Nothing => {}
            Begun::Head { .. } | Begun::Payload { .. } => return self.go_on(input),
        }
        let Some(head) = input.first_chunk::<HEAD_BYTES>() else {
            return self.go_on(input);
        };
        let head = self.head(*head)?;
        let frame_bytes = head.size + FRAME_OVERHEAD;
        if input.len() < frame_bytes {
            return self.go_on(input);
        }
        let mut payload = input.split_to(frame_bytes);
        payload.advance(HEAD_BYTES);
        self.whole(head, payload).map(Some)
    }

    /// Copies what belongs to a frame that comes in several pieces.
    fn go_on(&mut self, input: &mut Bytes) -> Result<Option<Frame>, Fault> {
        while !input.is_empty() {
            match std::mem::replace(&mut self.begun, Begun::Nothing) {
                Begun::Nothing => {
                    self.begun = Begun::Head {
                        bytes: [0; HEAD_BYTES],
                        len: 0,
                    };
                }
                Begun::Head { mut bytes, mut len } => {
                    let taken = (HEAD_BYTES - len).min(input.len());
                    input.copy_to_slice(&mut bytes[len..len + taken]);
                    len += taken;
                    self.begun = if len < HEAD_BYTES {
                        Begun::Head { bytes, len }
                    } else {
                        let head = self.head(bytes)?;
                        Begun::Payload {
                            head,
                            bytes: BytesMut::with_capacity(head.size + 1),
                        }
                    };
                }
                Begun::Payload { head, mut bytes } => {
                    let taken = (head.size + 1 - bytes.len()).min(input.len());
                    bytes.extend_from_slice(&input.split_to(taken));
                    if bytes.len() == head.size + 1 {
                        return self.whole(head, bytes.freeze()).map(Some);
                    }
                    self.begun = Begun::Payload { head, bytes };
                }
            }
        }
        Ok(None)
    }

    fn head(&self, bytes: [u8; HEAD_BYTES]) -> Result<Head, Fault> {
        let [octet, channel_high, channel_low, size @ ..] = bytes;
        let channel = u16::from_be_bytes([channel_high, channel_low]);
        let size = u32::from_be_bytes(size) as usize;
        let kind = match octet {
            1 => Kind::Method,
            2 => Kind::Header,
            3 => Kind::Body,
            8 => Kind::Heartbeat,
            _ => return Err(self.no_frame(bytes)),
        };
        if size > self.payload_bytes_max {
            let what = format!(
                "a frame of {size} bytes on channel {channel}, where {} are allowed",
                self.payload_bytes_max
            );
            return Err(Fault::new(Code::FrameError, what));
        }
        // Section 4.2.7: heartbeats are of channel 0, and carry nothing.
        if kind == Kind::Heartbeat && (channel != 0 || size != 0) {
            let what = format!("a heartbeat of {size} bytes on channel {channel}");
            return Err(Fault::new(Code::FrameError, what));
        }
        Ok(Head {
            kind,
            channel,
            size,
        })
    }

    /// Section 4.2.2: a server that doesn't speak our version answers with the header of one that it speaks.
    fn no_frame(&self, bytes: [u8; HEAD_BYTES]) -> Fault {
        let what = match bytes {
            _ if self.greeted => format!("a frame of unknown type {}", bytes[0]),
            [b'A', b'M', b'Q', b'P', id, major, minor] => format!(
                "it doesn't speak AMQP 0-9-1: it answered with the header of AMQP {major}.{minor} (id {id})"
            ),
            [0x15, 0x03, ..] => "its first bytes are a TLS alert: this port expects TLS".to_owned(),
            [b'H', b'T', b'T', b'P', ..] => "it answered in HTTP: no AMQP port".to_owned(),
            _ => format!("its first bytes are no AMQP frame: {}", hex(&bytes)),
        };
        Fault::new(Code::FrameError, what)
    }

    /// `payload` still has the end octet.
    fn whole(&mut self, head: Head, mut payload: Bytes) -> Result<Frame, Fault> {
        if payload.last() != Some(&FRAME_END) {
            let what = format!(
                "a frame of {} bytes on channel {} without its end octet",
                head.size, head.channel
            );
            return Err(Fault::new(Code::FrameError, what));
        }
        payload.truncate(head.size);
        self.greeted = true;
        Ok(Frame {
            kind: head.kind,
            channel: head.channel,
            payload,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    let octets: Vec<String> = bytes.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(" ")
}
