//! What every [`Disk`] does, tried alike on the real one and on its simulated twin.

mod course;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Disk, DiskEntry, DiskFile, OsDisk, SimDisk};

/// Runs one check on both disks, each with an empty directory.
fn on_both(check: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    check(&OsDisk, dir.path());
    let disk = SimDisk::new(0);
    disk.create_dir(Path::new("/some/where")).unwrap();
    check(&disk, Path::new("/some/where"));
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn contents(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn put(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    disk.create(path).unwrap().write_all_at(bytes, 0).unwrap();
}

#[test]
fn a_file_is_created_once_and_opened_only_if_there() {
    on_both(|disk, dir| {
        let path = dir.join("a");
        assert_eq!(kind(disk.open(&path)), ErrorKind::NotFound);
        assert!(!disk.exists(&path).unwrap());
        let file = disk.create(&path).unwrap();
        assert_eq!(kind(disk.create(&path)), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.create(dir)), ErrorKind::AlreadyExists);
        assert!(disk.exists(&path).unwrap());
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"x", 0).unwrap();
        assert_eq!(contents(&*disk.open(&path).unwrap()), b"x");
        assert_eq!(kind(disk.open(dir)), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.open(&path.join("b"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.create(&path.join("b"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.create(&dir.join("no/b"))), ErrorKind::NotFound);
    });
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let mut buffer = [0xEE; 8];
        assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 4);
        assert_eq!(&buffer, b"6789\xEE\xEE\xEE\xEE");
        assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
        assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
        let exact = file.read_exact_at(&mut buffer, 3);
        assert_eq!(kind(exact), ErrorKind::UnexpectedEof);
        file.read_exact_at(&mut buffer, 2).unwrap();
        assert_eq!(&buffer, b"23456789");
    });
}

#[test]
fn writes_and_lengths_leave_zeros_in_the_gaps() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("a")).unwrap();
        assert_eq!(file.write_at(&[], 100).unwrap(), 0);
        assert_eq!(file.len().unwrap(), 0);
        file.write_all_at(b"ab", 5000).unwrap();
        assert_eq!(file.len().unwrap(), 5002);
        file.set_len(5001).unwrap();
        file.set_len(6000).unwrap();
        file.write_all_at(b"z", 1).unwrap();
        let mut expected = vec![0; 6000];
        expected[1] = b'z';
        expected[5000] = b'a';
        assert_eq!(contents(&*file), expected);
        file.sync_data().unwrap();
        file.set_len(0).unwrap();
        assert!(file.is_empty().unwrap());
        assert_eq!(contents(&*disk.open(&dir.join("a")).unwrap()), b"");
    });
}

#[test]
fn space_that_is_taken_reads_as_zeros_and_takes_writes() {
    on_both(|disk, dir| {
        let file = disk.create(&dir.join("f")).unwrap();
        file.allocate((300 << 10) + 1).unwrap();
        assert_eq!(contents(&*file), vec![0; (300 << 10) + 1]);
        file.write_all_at(b"log", 100).unwrap();
        let found = contents(&*file);
        assert_eq!(
            (found.len(), &found[99..104]),
            ((300 << 10) + 1, &b"\0log\0"[..])
        );
    });
}

#[test]
fn handles_on_one_file_see_each_others_writes() {
    on_both(|disk, dir| {
        let one = disk.create(&dir.join("a")).unwrap();
        let two = disk.open(&dir.join("a")).unwrap();
        one.write_all_at(b"one", 0).unwrap();
        two.write_all_at(b"two", 1).unwrap();
        assert_eq!(contents(&*one), b"otwo");
        one.set_len(2).unwrap();
        assert_eq!(two.len().unwrap(), 2);
    });
}

#[test]
fn a_rename_replaces_and_an_open_file_outlives_its_name() {
    on_both(|disk, dir| {
        let (old, new) = (dir.join("old"), dir.join("new"));
        put(disk, &old, b"first");
        put(disk, &new, b"second");
        let replaced = disk.open(&new).unwrap();
        disk.rename(&old, &new).unwrap();
        disk.sync_dir(dir).unwrap();
        assert!(!disk.exists(&old).unwrap());
        assert_eq!(contents(&*disk.open(&new).unwrap()), b"first");
        assert_eq!(contents(&*replaced), b"second");
        replaced.write_all_at(b"!", 6).unwrap();
        replaced.sync_data().unwrap();
        assert_eq!(contents(&*replaced), b"second!");
        disk.rename(&new, &new).unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["new"]);
        assert_eq!(kind(disk.rename(&old, &new)), ErrorKind::NotFound);
        let far = dir.join("no/new");
        assert_eq!(kind(disk.rename(&new, &far)), ErrorKind::NotFound);
    });
}

#[test]
fn files_and_directories_do_not_replace_each_other() {
    on_both(|disk, dir| {
        let (file, empty, full) = (dir.join("file"), dir.join("empty"), dir.join("full"));
        put(disk, &file, b"x");
        disk.create_dir(&empty).unwrap();
        disk.create_dir(&full).unwrap();
        put(disk, &full.join("inner"), b"y");
        assert_eq!(kind(disk.rename(&file, &empty)), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.rename(&empty, &file)), ErrorKind::NotADirectory);
        let not_empty = ErrorKind::DirectoryNotEmpty;
        assert_eq!(kind(disk.rename(&empty, &full)), not_empty);
        let inside = full.join("self");
        assert_eq!(kind(disk.rename(&full, &inside)), ErrorKind::InvalidInput);
        disk.rename(&full, &empty).unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["empty", "file"]);
        assert_eq!(contents(&*disk.open(&empty.join("inner")).unwrap()), b"y");
    });
}

#[test]
fn a_file_moves_between_directories() {
    on_both(|disk, dir| {
        let (from, to) = (dir.join("from"), dir.join("to"));
        disk.create_dir(&from).unwrap();
        disk.create_dir(&to).unwrap();
        put(disk, &from.join("a"), b"x");
        disk.rename(&from.join("a"), &to.join("b")).unwrap();
        disk.sync_dir(&to).unwrap();
        disk.sync_dir(&from).unwrap();
        assert_eq!(disk.list(&from).unwrap(), [""; 0]);
        assert_eq!(contents(&*disk.open(&to.join("b")).unwrap()), b"x");
    });
}

#[test]
fn a_removed_file_is_gone_but_can_be_read_while_open() {
    on_both(|disk, dir| {
        let path = dir.join("a");
        assert_eq!(kind(disk.remove(&path)), ErrorKind::NotFound);
        assert_eq!(kind(disk.remove(dir)), ErrorKind::IsADirectory);
        put(disk, &path, b"x");
        let open = disk.open(&path).unwrap();
        disk.remove(&path).unwrap();
        disk.sync_dir(dir).unwrap();
        assert!(!disk.exists(&path).unwrap());
        assert_eq!(contents(&*open), b"x");
        put(disk, &path, b"new");
        assert_eq!(contents(&*open), b"x");
    });
}

#[test]
fn directories_are_created_with_their_parents_and_listed_in_order() {
    on_both(|disk, dir| {
        let deep = dir.join("b/c/d");
        disk.create_dir(&deep).unwrap();
        disk.create_dir(&deep).unwrap();
        put(disk, &dir.join("c"), b"");
        put(disk, &dir.join("a"), b"");
        put(disk, &dir.join("B"), b"");
        assert_eq!(disk.list(dir).unwrap(), ["B", "a", "b", "c"]);
        assert_eq!(disk.list(&deep).unwrap(), [""; 0]);
        assert!(disk.exists(&deep).unwrap());
        let file = dir.join("a");
        assert_eq!(kind(disk.create_dir(&file)), ErrorKind::AlreadyExists);
        let below = file.join("x");
        assert_eq!(kind(disk.create_dir(&below)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.exists(&below)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.list(&file)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.list(&dir.join("no"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir(&dir.join("no"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir(&file)), ErrorKind::NotADirectory);
    });
}

#[test]
fn a_directory_is_removed_when_it_is_empty_and_moves_with_what_is_in_it() {
    on_both(|disk, dir| {
        let (one, two) = (dir.join("one"), dir.join("two"));
        disk.create_dir(&one).unwrap();
        disk.create_dir(&two).unwrap();
        put(disk, &one.join("file"), b"in it");
        assert_eq!(kind(disk.remove_dir(&one)), ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(disk.rename(&two, &one)), ErrorKind::DirectoryNotEmpty);
        disk.rename(&one, &two.join("one")).unwrap();
        let moved = two.join("one/file");
        disk.sync_file(&moved).unwrap();
        assert_eq!(disk.entry(&moved).unwrap(), Some(DiskEntry::File));
        assert_eq!(disk.entry(&two).unwrap(), Some(DiskEntry::Dir));
        assert_eq!(disk.entry(&one).unwrap(), None);
        assert_eq!(kind(disk.remove_dir(&moved)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.sync_file(&two)), ErrorKind::IsADirectory);
        disk.remove(&moved).unwrap();
        disk.remove_dir(&two.join("one")).unwrap();
        disk.remove_dir(&two).unwrap();
        assert_eq!(kind(disk.remove_dir(&two)), ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_file(&two)), ErrorKind::NotFound);
        assert_eq!(disk.list(dir).unwrap(), [""; 0]);
    });
}

#[test]
fn a_link_is_what_it_is_and_not_where_it_leads() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    assert_eq!(OsDisk.entry(&link).unwrap(), Some(DiskEntry::Other));
}

#[test]
fn a_lock_has_one_holder_and_ends_with_its_value() {
    on_both(|disk, dir| {
        let (one, two) = (dir.join("one"), dir.join("two"));
        let held = disk.lock(&one).unwrap();
        assert!(disk.exists(&one).unwrap());
        assert_eq!(kind(disk.lock(&one)), ErrorKind::WouldBlock);
        let other = disk.lock(&two).unwrap();
        drop(held);
        let again = disk.lock(&one).unwrap();
        assert_eq!(kind(disk.lock(&one)), ErrorKind::WouldBlock);
        assert_eq!(kind(disk.lock(&two)), ErrorKind::WouldBlock);
        drop((again, other));
        disk.lock(&two).unwrap();
        disk.lock(&two).unwrap();
        assert_eq!(kind(disk.lock(&dir.join("no/x"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.lock(dir)), ErrorKind::IsADirectory);
    });
}

#[test]
fn a_lock_is_on_the_file_not_on_its_name_and_leaves_its_bytes_alone() {
    on_both(|disk, dir| {
        let path = dir.join("lock");
        put(disk, &path, b"pid");
        let held = disk.lock(&path).unwrap();
        assert_eq!(contents(&*disk.open(&path).unwrap()), b"pid");
        disk.rename(&path, &dir.join("moved")).unwrap();
        let moved = disk.lock(&dir.join("moved"));
        assert_eq!(kind(moved), ErrorKind::WouldBlock);
        let fresh = disk.lock(&path).unwrap();
        drop(held);
        assert_eq!(kind(disk.lock(&path)), ErrorKind::WouldBlock);
        drop(fresh);
    });
}

#[test]
fn the_parent_of_a_bare_name_is_a_directory() {
    let parent = Path::new("name").parent().unwrap();
    for disk in [&OsDisk as &dyn Disk, &SimDisk::new(0)] {
        disk.list(parent).unwrap();
        disk.create_dir(parent).unwrap();
        disk.sync_dir(parent).unwrap();
    }
}

#[test]
fn what_the_real_disk_creates_is_its_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| {
        let found = fs::metadata(dir.path().join(name)).unwrap();
        found.permissions().mode() & 0o777
    };
    OsDisk.create_dir(&dir.path().join("a/b")).unwrap();
    put(&OsDisk, &dir.path().join("file"), b"");
    OsDisk.lock(&dir.path().join("lock")).unwrap();
    assert_eq!([mode("a"), mode("a/b")], [0o700; 2]);
    assert_eq!([mode("file"), mode("lock")], [0o600; 2]);
}
