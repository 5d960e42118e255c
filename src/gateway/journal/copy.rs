//! A copy of the unit's journal on this gateway's disk: after a restart, only what came since is read from the broker.
//!
//! A broker reads a stream back piece by piece, and where entries came one at a time each is a piece: some 2,000 a second, so
//! the window of a quiet unit would take a minute, in which its lanes wait. Owns two files in the state folder; the newer
//! one is appended to, and the older one goes when the newer alone reaches back far enough. Promises that what is read
//! from them is a stretch of the stream without a hole, and that a broken or interrupted write ends it. Never synced: a
//! power cut makes it shorter.

use crate::broker::Followed;
use bytes::Bytes;
use crc32fast::Hasher;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Entries that wait to be written, and as many that are; of the largest, of some 100 KB, these are 26 MB.
pub(super) const WAITING_MAX: usize = 128;
/// Of one file: half an hour of 10,000 identities a second. What is older than the newer file's first then goes early, and
/// the copy may not reach back far enough: then it isn't used.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// How long entries are gathered.
const GATHERED: Duration = Duration::from_secs(1);
/// A larger entry isn't ours.
const BODY_BYTES_MAX: u32 = 4 << 20;
/// Offset, time, length, checksum.
const HEAD_BYTES: usize = 8 + 8 + 4 + 4;

/// An entry, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) followed: Followed,
    pub(super) at: Duration,
}

/// What is to be done with the copy.
#[derive(Debug)]
pub(super) enum Keep {
    /// The next entry of the stream.
    Entry(Kept),
    /// The stream is another one: what was copied is of no use.
    Anew,
}

/// The folder of a copy.
#[derive(Debug, Clone)]
pub(super) struct CopyFolder(PathBuf);

/// What lies there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first: Kept,
    pub(super) last: Kept,
    /// When the newer file's first entry was written; none in it yet.
    newer_since: Option<Duration>,
}

impl CopyFolder {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.to_owned())
    }

    fn older(&self) -> PathBuf {
        self.0.join("journal.older")
    }

    fn newer(&self) -> PathBuf {
        self.0.join("journal.newer")
    }

    /// Hands over every entry in its order, and gives what there is: none where nothing whole lies. Cuts off what a
    /// write that was interrupted has left, so that more can be appended.
    pub(super) fn read(&self, mut each: impl FnMut(Kept)) -> io::Result<Option<Stretch>> {
        let (mut stretch, mut is_whole) = (None::<Stretch>, true);
        for (path, is_newer) in [(self.older(), false), (self.newer(), true)] {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut whole_bytes = 0;
            let mut reader = BufReader::new(file);
            while is_whole {
                let kept = match read_one(&mut reader)? {
                    Next::Entry(kept) => kept,
                    Next::End => break,
                    Next::Broken => {
                        is_whole = false;
                        break;
                    }
                };
                let before = stretch.as_ref().map(|stretch| stretch.last.followed.offset);
                if before.is_some_and(|before| kept.followed.offset <= before) {
                    is_whole = false;
                    break;
                }
                let begins_newer = (is_newer && whole_bytes == 0).then_some(kept.at);
                whole_bytes += (HEAD_BYTES + kept.followed.body.len()) as u64;
                match &mut stretch {
                    None => {
                        stretch = Some(Stretch {
                            first: kept.clone(),
                            newer_since: begins_newer,
                            last: kept.clone(),
                        });
                    }
                    Some(stretch) => {
                        stretch.newer_since = stretch.newer_since.or(begins_newer);
                        stretch.last = kept.clone();
                    }
                }
                each(kept);
            }
            if !is_whole {
                OpenOptions::new()
                    .write(true)
                    .open(&path)?
                    .set_len(whole_bytes)?;
            }
        }
        Ok(stretch)
    }

    /// Removes it.
    pub(super) fn clear(&self) -> io::Result<()> {
        for path in [self.older(), self.newer()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Writes what comes, each second or once there is much, until nobody sends any more: what isn't written yet when the
    /// gateway is killed is read from the broker. `reach` is how far back the copy is to reach.
    pub(super) async fn keep(
        self,
        known: Option<Stretch>,
        mut entries: mpsc::Receiver<Keep>,
        reach: impl Fn() -> Duration,
    ) {
        let mut since = known.and_then(|stretch| stretch.newer_since);
        let mut taken = Vec::new();
        while gather(&mut entries, &mut taken).await {
            let (folder, reach) = (self.clone(), reach());
            let batch = std::mem::take(&mut taken);
            let written =
                tokio::task::spawn_blocking(move || folder.write(&batch, since, reach)).await;
            match written {
                Ok(Ok(now)) => since = now,
                // What has been copied is a stretch still; without the rest, which a restart then reads from the broker.
                Ok(Err(error)) => {
                    return tracing::warn!(%error, "the copy of the journal in state_dir can't be written; a restart takes longer");
                }
                Err(_) => return,
            }
        }
    }

    /// Appends entries. Gives since when the newer file is.
    fn write(
        &self,
        batch: &[Keep],
        mut since: Option<Duration>,
        reach: Duration,
    ) -> io::Result<Option<Duration>> {
        let mut file = self.append()?;
        let mut bytes = Vec::new();
        for keep in batch {
            let Keep::Entry(kept) = keep else {
                bytes.clear();
                drop(file);
                self.clear()?;
                file = self.append()?;
                since = None;
                continue;
            };
            let is_full = file.metadata()?.len() + bytes.len() as u64 >= FILE_BYTES_MAX;
            if is_full || since.is_some_and(|since| since + reach < kept.at) {
                file.write_all(&bytes)?;
                bytes.clear();
                drop(file);
                std::fs::rename(self.newer(), self.older())?;
                file = self.append()?;
                since = None;
            }
            since.get_or_insert(kept.at);
            put_one(&mut bytes, kept);
        }
        file.write_all(&bytes)?;
        Ok(since)
    }

    fn append(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        options.open(self.newer())
    }
}

/// Takes what comes within a second from the first, [`WAITING_MAX`] at most; false when nothing comes any more.
async fn gather(entries: &mut mpsc::Receiver<Keep>, taken: &mut Vec<Keep>) -> bool {
    let Some(first) = entries.recv().await else {
        return false;
    };
    taken.push(first);
    let end = Instant::now() + GATHERED;
    while taken.len() < WAITING_MAX
        && let Ok(Some(next)) = timeout_at(end, entries.recv()).await
    {
        taken.push(next);
    }
    true
}

impl Stretch {
    /// Whether it tells all that the stream tells since then.
    pub(super) fn reaches(&self, back: Duration) -> bool {
        self.first.followed.offset == 0 || self.first.at <= back
    }
}

enum Next {
    Entry(Kept),
    End,
    Broken,
}

fn read_one(reader: &mut impl io::Read) -> io::Result<Next> {
    let mut head = [0; HEAD_BYTES];
    match reader.read(&mut head[..1])? {
        0 => return Ok(Next::End),
        _ => {
            if !read_whole(reader, &mut head[1..])? {
                return Ok(Next::Broken);
            }
        }
    }
    let number = |at: usize| {
        let bytes = head[at..at + 8].first_chunk::<8>();
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let short = |at: usize| {
        let bytes = head[at..at + 4].first_chunk::<4>();
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let (offset, at_ms, length, checksum) = (number(0), number(8), short(16), short(20));
    if length > BODY_BYTES_MAX {
        return Ok(Next::Broken);
    }
    let mut body = vec![0; length as usize];
    if !read_whole(reader, &mut body)? || self::checksum(&head[..20], &body) != checksum {
        return Ok(Next::Broken);
    }
    Ok(Next::Entry(Kept {
        followed: Followed {
            offset,
            body: Bytes::from(body),
        },
        at: Duration::from_millis(at_ms),
    }))
}

/// Whether there was enough.
fn read_whole(reader: &mut impl io::Read, into: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn put_one(bytes: &mut Vec<u8>, kept: &Kept) {
    let Followed { offset, body } = &kept.followed;
    let at_ms = u64::try_from(kept.at.as_millis()).unwrap_or(u64::MAX);
    let begin = bytes.len();
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&at_ms.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    let checksum = checksum(&bytes[begin..], body);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(body);
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64, seconds: u64) -> Kept {
        Kept {
            followed: Followed {
                offset,
                body: Bytes::from(format!("entry {offset}")),
            },
            at: Duration::from_secs(seconds),
        }
    }

    fn folder() -> (tempfile::TempDir, CopyFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = CopyFolder::new(dir.path());
        (dir, folder)
    }

    fn write(folder: &CopyFolder, entries: &[Kept], since: Option<Duration>) -> Option<Duration> {
        let batch: Vec<Keep> = entries.iter().cloned().map(Keep::Entry).collect();
        folder.write(&batch, since, Duration::from_mins(1)).unwrap()
    }

    fn read(folder: &CopyFolder) -> (Vec<u64>, Option<Stretch>) {
        let mut offsets = Vec::new();
        let stretch = folder.read(|kept| offsets.push(kept.followed.offset));
        (offsets, stretch.unwrap())
    }

    #[test]
    fn what_was_copied_is_read_back_in_its_order_and_more_is_appended() {
        let (_dir, folder) = folder();
        assert_eq!(read(&folder), (vec![], None));
        let since = write(&folder, &[entry(3, 10), entry(7, 11)], None);
        write(&folder, &[entry(8, 12)], since);
        let (offsets, stretch) = read(&folder);
        assert_eq!(offsets, [3, 7, 8]);
        let stretch = stretch.unwrap();
        assert_eq!((stretch.first, stretch.last), (entry(3, 10), entry(8, 12)));
    }

    #[tokio::test]
    async fn what_is_gathered_when_the_gateway_stops_is_written_too() {
        let (_dir, folder) = folder();
        let (to, entries) = mpsc::channel(WAITING_MAX);
        for offset in 1..=3 {
            to.send(Keep::Entry(entry(offset, offset))).await.unwrap();
        }
        drop(to);
        let keeper = folder.clone();
        keeper.keep(None, entries, || Duration::from_mins(1)).await;
        assert_eq!(read(&folder).0, [1, 2, 3]);
    }

    #[test]
    fn a_write_that_was_interrupted_ends_the_stretch_and_more_follows_behind_what_is_whole() {
        for cut in 1..(HEAD_BYTES + 7) {
            let (_dir, folder) = folder();
            let since = write(&folder, &[entry(1, 10), entry(2, 11)], None);
            let file = OpenOptions::new().write(true).open(folder.newer()).unwrap();
            let bytes = file.metadata().unwrap().len();
            file.set_len(bytes - cut as u64).unwrap();
            assert_eq!(read(&folder).0, [1], "{cut} bytes are missing");
            write(&folder, &[entry(2, 11)], since);
            assert_eq!(read(&folder).0, [1, 2], "{cut} bytes are missing");
        }
    }

    #[test]
    fn a_byte_that_has_changed_ends_the_stretch() {
        let (_dir, folder) = folder();
        write(&folder, &[entry(1, 10), entry(2, 11), entry(3, 12)], None);
        let whole = std::fs::read(folder.newer()).unwrap();
        let one = whole.len() / 3;
        for at in one..2 * one {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(folder.newer(), bytes).unwrap();
            assert_eq!(read(&folder).0, [1], "byte {at}");
        }
    }

    #[test]
    fn the_older_file_goes_when_the_newer_reaches_back_far_enough() {
        let (_dir, folder) = folder();
        let mut since = None;
        for second in 0..=150 {
            since = write(&folder, &[entry(second, second)], since);
        }
        let (offsets, stretch) = read(&folder);
        assert_eq!(offsets.first(), Some(&61), "of 61 s each, two files");
        assert_eq!(offsets.len(), 90);
        let stretch = stretch.unwrap();
        assert!(stretch.reaches(Duration::from_secs(61)));
        assert!(!stretch.reaches(Duration::from_mins(1)));
        assert_eq!(stretch.newer_since, Some(Duration::from_secs(122)));
        assert_eq!(since, stretch.newer_since);
    }

    #[test]
    fn of_another_stream_nothing_that_was_copied_stays() {
        let (_dir, folder) = folder();
        let batch = [
            Keep::Entry(entry(1, 10)),
            Keep::Anew,
            Keep::Entry(entry(0, 11)),
        ];
        let since = folder.write(&batch, None, Duration::from_mins(1)).unwrap();
        assert_eq!(since, Some(Duration::from_secs(11)));
        let (offsets, stretch) = read(&folder);
        assert_eq!(offsets, [0]);
        assert!(
            stretch.unwrap().reaches(Duration::ZERO),
            "it begins the stream"
        );
    }

    #[test]
    fn files_that_overlap_are_read_up_to_where_they_do() {
        let (_dir, folder) = folder();
        write(&folder, &[entry(5, 10), entry(6, 11)], None);
        std::fs::rename(folder.newer(), folder.older()).unwrap();
        write(&folder, &[entry(6, 11), entry(7, 12)], None);
        assert_eq!(read(&folder).0, [5, 6]);
        assert_eq!(std::fs::metadata(folder.newer()).unwrap().len(), 0);
    }
}
