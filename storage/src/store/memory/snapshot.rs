//! The file that a copy of a memory store is.
//!
//! Magic, format, position and number of rows; then each row by bincode; then the CRC-32 of all
//! that. The file is complete or refused: the checksum is compared before a row is looked at.

use std::collections::BTreeMap;
use std::path::Path;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::{BufMut, Bytes};

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{CHANGE_MAX, RowKey};

/// Name of the file in the copy's directory.
const NAME: &str = "memory-store";
const MAGIC: &[u8; 8] = b"MAINSTAY";
const FORMAT: u32 = 1;
/// Magic, format, position, number of rows.
const HEADER: usize = 8 + 4 + 8 + 8;
const CRC: usize = 4;
/// Bytes collected before they are written.
const WRITE_CHUNK: usize = 1 << 20;
type Row<'a> = (u32, &'a [u8], &'a [u8]);

const CONFIG: Configuration<LittleEndian, Varint, Limit<CHANGE_MAX>> =
    bincode::config::standard().with_limit::<CHANGE_MAX>();

/// Writes `image` into the empty directory `dir`, durably.
pub(super) fn write(
    disk: &dyn Disk,
    dir: &Path,
    image: &BTreeMap<RowKey, Bytes>,
    position: Lsn,
) -> Result<()> {
    let path = dir.join(NAME);
    let file = disk
        .create(&path)
        .map_err(|error| Error::io("create", &path, error))?;
    let mut out = Out {
        file: file.as_ref(),
        path: &path,
        buffer: Vec::with_capacity(WRITE_CHUNK),
        offset: 0,
        crc: crc32fast::Hasher::new(),
    };
    out.buffer.put_slice(MAGIC);
    out.buffer.put_u32_le(FORMAT);
    out.buffer.put_u64_le(position.get());
    out.buffer.put_u64_le(image.len() as u64);
    for ((table, key), value) in image {
        let row: Row<'_> = (*table, key, value);
        bincode::encode_into_std_write(row, &mut out.buffer, CONFIG)
            .expect("bytes in memory always take a row");
        if out.buffer.len() >= WRITE_CHUNK {
            out.flush()?;
        }
    }
    out.flush()?;
    let crc = out.crc.clone().finalize();
    out.buffer.put_u32_le(crc);
    out.flush()?;
    file.sync_data()
        .map_err(|error| Error::io("sync", &path, error))?;
    disk.sync_dir(dir)
        .map_err(|error| Error::io("sync", dir, error))
}

struct Out<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    buffer: Vec<u8>,
    offset: u64,
    crc: crc32fast::Hasher,
}

impl Out<'_> {
    fn flush(&mut self) -> Result<()> {
        self.crc.update(&self.buffer);
        self.file
            .write_all_at(&self.buffer, self.offset)
            .map_err(|error| Error::io("write", self.path, error))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads the copy in `dir`: its rows and position.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<(BTreeMap<RowKey, Bytes>, Lsn)> {
    let path = dir.join(NAME);
    let bytes = contents(disk, &path)?;
    let corrupt = |why: &str| Error::Corrupt {
        path: path.clone(),
        what: "copy of a store",
        at: Lsn::ZERO,
        proven: Lsn::ZERO,
        why: why.to_owned(),
    };
    if bytes.len() < HEADER + CRC {
        return Err(corrupt("it is shorter than its header"));
    }
    let (body, crc) = bytes.split_at(bytes.len() - CRC);
    if crc != crc32fast::hash(body).to_le_bytes() {
        return Err(corrupt("its checksum is wrong"));
    }
    let (header, mut rows) = body.split_at(HEADER);
    let number = |range: std::ops::Range<usize>| {
        let bytes = header[range].iter().rev();
        bytes.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    if !header.starts_with(MAGIC) {
        return Err(corrupt("it does not begin with its magic"));
    }
    let format = u32::try_from(number(8..12)).expect("four bytes");
    if format != FORMAT {
        return Err(Error::Format {
            path,
            found: format,
            supported: FORMAT,
        });
    }
    let mut image = BTreeMap::new();
    while !rows.is_empty() {
        let ((table, key, value), read) =
            bincode::borrow_decode_from_slice::<Row<'_>, _>(rows, CONFIG)
                .map_err(|error| corrupt(&format!("a row does not read: {error}")))?;
        let own = Bytes::copy_from_slice;
        image.insert((table, own(key)), own(value));
        rows = &rows[read..];
    }
    if image.len() as u64 != number(20..28) {
        return Err(corrupt("its number of rows is wrong"));
    }
    Ok((image, Lsn::new(number(12..20))))
}

fn contents(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>> {
    let io = |op| move |error| Error::io(op, path, error);
    let file = disk.open(path).map_err(io("open"))?;
    let len = file.len().map_err(io("read"))?;
    let len = usize::try_from(len).map_err(|_| Error::TooLarge {
        what: "copy of a store",
        size: len,
        max: usize::MAX as u64,
    })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(io("read"))?;
    Ok(bytes)
}
