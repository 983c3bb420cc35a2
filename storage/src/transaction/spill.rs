//! Sorted runs of writes in files of their own.
//!
//! A run is written once, in key order, read back by key or from a key on, and removed when
//! nobody needs it any more. It never has to survive a crash, so nothing here is synced; each row
//! carries a checksum all the same, because what is read back goes into the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::merge::Write;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::RowKey;

/// Every run's file name begins with it.
const PREFIX: &str = "write-set-";
/// Bytes collected before they are written, or read at a time by whoever reads on.
const CHUNK: usize = 256 << 10;
/// Bytes between two keys of the index; and read at a time to find one key.
const INDEX_STEP: usize = 32 << 10;
/// The index takes at most one byte for so many of the file.
const INDEX_SHARE: usize = 64;
/// CRC-32, table, key's and value's length.
const ROW_HEADER: usize = 16;
/// Stands for the value's length in a deletion.
const DELETED: u32 = u32::MAX;

/// Numbers the runs of this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Removes the runs that a process which ended left in `dir`, and returns how many there were. No
/// write set may be using `dir`.
///
/// # Errors
/// Disk errors.
pub fn remove_spills(disk: &dyn Disk, dir: &Path) -> Result<usize> {
    let names = disk
        .list(dir)
        .map_err(|error| Error::io("list", dir, error))?;
    let mut removed = 0;
    for name in names.iter().filter(|name| name.starts_with(PREFIX)) {
        let path = dir.join(name);
        disk.remove(&path)
            .map_err(|error| Error::io("remove", &path, error))?;
        removed += 1;
    }
    Ok(removed)
}

/// A sorted run in a file, which is removed with it.
#[derive(Debug)]
pub(super) struct Run {
    place: Place,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Keys and values, in bytes.
    pub(super) bytes: u64,
    /// Some of the keys, and where their rows begin.
    index: Vec<(RowKey, u64)>,
    /// How often its writes were merged.
    pub(super) level: u32,
}

/// A file that is removed when this is dropped, also when it was never finished.
#[derive(Debug)]
struct Place {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a spilled write set could not be removed");
        }
    }
}

impl Run {
    /// Writes rows, which are in key order, into a new file in `dir`.
    ///
    /// # Errors
    /// Those of the rows; disk errors. No file is left then.
    pub(super) fn write(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        level: u32,
        rows: impl Iterator<Item = Result<Write>>,
    ) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{PREFIX}{number}"));
        let mut created = disk.create(&path);
        // Numbers are used once in a process, so such a file is another process's leftover.
        if matches!(&created, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
            created = disk.remove(&path).and_then(|()| disk.create(&path));
        }
        let file = created.map_err(|error| Error::io("create", &path, error))?;
        let disk = disk.clone();
        let mut run = Self {
            place: Place { disk, path },
            file,
            len: 0,
            bytes: 0,
            index: Vec::new(),
            level,
        };
        run.fill(rows)?;
        Ok(run)
    }

    fn fill(&mut self, rows: impl Iterator<Item = Result<Write>>) -> Result<()> {
        let mut buffer = Vec::with_capacity(CHUNK);
        let mut indexed: Option<u64> = None;
        for row in rows {
            let (key, value) = row?;
            let offset = self.len + buffer.len() as u64;
            let step = INDEX_STEP.max(INDEX_SHARE * key.1.len()) as u64;
            if indexed.is_none_or(|last| offset - last >= step) {
                indexed = Some(offset);
                self.index.push((key.clone(), offset));
            }
            encode(&mut buffer, &key, value.as_deref());
            let value_len = value.map_or(0, |value| value.len());
            self.bytes += (key.1.len() + value_len) as u64;
            if buffer.len() >= CHUNK {
                self.append(&mut buffer)?;
            }
        }
        self.append(&mut buffer)
    }

    fn append(&mut self, buffer: &mut Vec<u8>) -> Result<()> {
        self.file
            .write_all_at(buffer, self.len)
            .map_err(|error| Error::io("write", &self.place.path, error))?;
        self.len += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    /// What the run says about a key: nothing, or its value, `None` when deleted.
    pub(super) fn get(self: &Arc<Self>, key: &RowKey) -> Result<Option<Option<Bytes>>> {
        match self.rows_from(key, INDEX_STEP).next().transpose()? {
            Some((found, value)) if found == *key => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// The rows from the first one at or above `key` on.
    pub(super) fn from(self: &Arc<Self>, key: &RowKey) -> RunRows {
        self.rows_from(key, CHUNK)
    }

    fn rows_from(self: &Arc<Self>, key: &RowKey, chunk: usize) -> RunRows {
        let after = self.index.partition_point(|(first, _)| first <= key);
        let block = after.checked_sub(1).and_then(|at| self.index.get(at));
        RunRows {
            run: self.clone(),
            from: key.clone(),
            chunk,
            buffer: BytesMut::new(),
            offset: block.map_or(0, |(_, offset)| *offset),
            ended: false,
        }
    }
}

fn encode(buffer: &mut Vec<u8>, (table, key): &RowKey, value: Option<&[u8]>) {
    let number = |len: usize| u32::try_from(len).expect("keys and values have limits");
    let start = buffer.len();
    buffer.put_u32_le(0);
    buffer.put_u32_le(*table);
    buffer.put_u32_le(number(key.len()));
    buffer.put_u32_le(value.map_or(DELETED, |value| number(value.len())));
    buffer.put_slice(key);
    buffer.put_slice(value.unwrap_or_default());
    let crc = crc32fast::hash(&buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a run's rows from a key on.
pub(super) struct RunRows {
    run: Arc<Run>,
    /// Rows below it are passed over.
    from: RowKey,
    chunk: usize,
    /// What was read and not handed out yet.
    buffer: BytesMut,
    /// Where in the file the buffer ends.
    offset: u64,
    ended: bool,
}

impl RunRows {
    /// The next row in the file.
    fn read(&mut self) -> Result<Option<Write>> {
        if self.buffer.is_empty() && self.offset == self.run.len {
            return Ok(None);
        }
        self.need(ROW_HEADER)?;
        let mut header = &self.buffer[..ROW_HEADER];
        let (crc, table) = (header.get_u32_le(), header.get_u32_le());
        let (key_len, value_len) = (header.get_u32_le(), header.get_u32_le());
        let deleted = value_len == DELETED;
        let key_len = key_len as usize;
        let value_len = if deleted { 0 } else { value_len as usize };
        let len = ROW_HEADER + key_len + value_len;
        self.need(len)?;
        if crc != crc32fast::hash(&self.buffer[4..len]) {
            return Err(self.damaged("its checksum is wrong"));
        }
        let mut row = self.buffer.split_to(len).freeze();
        row.advance(ROW_HEADER);
        // A key outlives its row, in an index or a conflict window, and must not keep the whole
        // chunk that was read.
        let key = Bytes::copy_from_slice(&row.split_to(key_len));
        Ok(Some(((table, key), (!deleted).then_some(row))))
    }

    /// Reads on until the buffer holds `len` bytes.
    fn need(&mut self, len: usize) -> Result<()> {
        let Some(missing) = len.checked_sub(self.buffer.len()).filter(|len| *len > 0) else {
            return Ok(());
        };
        let left = self.run.len - self.offset;
        if missing as u64 > left {
            return Err(self.damaged("the file ends inside it"));
        }
        let count = usize::try_from(left).map_or(self.chunk, |left| left.min(self.chunk));
        let (have, count) = (self.buffer.len(), count.max(missing));
        self.buffer.resize(have + count, 0);
        self.run
            .file
            .read_exact_at(&mut self.buffer[have..], self.offset)
            .map_err(|error| Error::io("read", &self.run.place.path, error))?;
        self.offset += count as u64;
        Ok(())
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Corrupt {
            path: self.run.place.path.clone(),
            what: "row of a spilled write set",
            at: Lsn::ZERO,
            proven: Lsn::ZERO,
            why: why.to_owned(),
        }
    }
}

impl Iterator for RunRows {
    type Item = Result<Write>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.read() {
                Ok(Some((key, _))) if key < self.from => {}
                Ok(Some(row)) => return Some(Ok(row)),
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use crate::store::successor;

    fn run(dir: &Path, rows: &[Write]) -> Arc<Run> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        Arc::new(Run::write(&disk, dir, 0, rows.iter().cloned().map(Ok)).unwrap())
    }

    fn rows() -> Vec<Write> {
        let row = |n: u32| {
            let key = Bytes::copy_from_slice(&(n * 2).to_be_bytes());
            let len = if n.is_multiple_of(97) { 100_000 } else { 100 };
            let value = (!n.is_multiple_of(5)).then(|| Bytes::from(vec![7; len]));
            ((1 + n / 2_500, key), value)
        };
        (0..5_000).map(row).collect()
    }

    #[test]
    fn a_run_gives_back_each_row_by_key_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows();
        let run = run(dir.path(), &rows);
        assert!(run.index.len() > 20, "{} blocks", run.index.len());
        for (n, (key, value)) in rows.iter().enumerate().step_by(7) {
            assert_eq!(run.get(key).unwrap().as_ref(), Some(value));
            let odd = (key.0, successor(&key.1));
            assert_eq!(run.get(&odd).unwrap(), None);
            let next = run.from(&odd).next().transpose().unwrap();
            assert_eq!(next.as_ref(), rows.get(n + 1));
        }
        let start = (0, Bytes::new());
        let all = run.from(&start).collect::<Result<Vec<_>>>().unwrap();
        assert!(all == rows, "reading it all gives something else");
    }

    #[test]
    fn a_damaged_run_is_an_error_never_a_wrong_row() {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows()[..50].to_vec();
        let start = (0, Bytes::new());
        for at in (0..3_000).step_by(13) {
            let run = run(dir.path(), &rows);
            let mut byte = [0];
            run.file.read_exact_at(&mut byte, at).unwrap();
            run.file.write_all_at(&[byte[0] ^ 0x80], at).unwrap();
            let mut read = run.from(&start);
            let good = read.by_ref().take_while(Result::is_ok).map(Result::unwrap);
            assert!(good.collect::<Vec<_>>().len() < rows.len());
            assert!(read.next().is_none(), "it went on after the damage");
        }
    }

    #[test]
    fn a_run_that_is_cut_is_an_error_never_fewer_rows() {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows()[1..6].to_vec();
        let whole = run(dir.path(), &rows).len;
        for len in 0..whole {
            let run = run(dir.path(), &rows);
            run.file.set_len(len).unwrap();
            let read = run.from(&(0, Bytes::new())).collect::<Result<Vec<_>>>();
            assert!(read.is_err(), "{len} of {whole} bytes");
        }
    }

    #[test]
    fn no_file_outlives_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let names = || OsDisk.list(dir.path()).unwrap();
        let run = run(dir.path(), &rows());
        assert_eq!(names().len(), 1);
        let reading = run.from(&(0, Bytes::new()));
        drop(run);
        assert_eq!(names().len(), 1);
        drop(reading);
        assert!(names().is_empty());
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let failing = [Err(Error::Closed)].into_iter();
        assert!(Run::write(&disk, dir.path(), 0, failing).is_err());
        assert!(names().is_empty());
        for name in ["write-set-1", "write-set-x", "other"] {
            OsDisk.create(&dir.path().join(name)).unwrap();
        }
        assert_eq!(remove_spills(&OsDisk, dir.path()).unwrap(), 2);
        assert_eq!(names(), ["other"]);
    }
}
