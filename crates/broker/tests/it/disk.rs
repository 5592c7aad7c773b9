//! A disk that is slow, full, or loses what it was given, when a test says so; and what clients are
//! told then.

use crate::client::{Client, batch};
use crate::requests::{fetch, group, produce, topic};
use crate::server::Server;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use millstream_log::files::{Entry, File, Files, How, RealFiles};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Default, Clone)]
pub struct Disk(Arc<State>);

#[derive(Debug, Default)]
struct State {
    full: AtomicBool,
    syncs_fail: AtomicBool,
    dirs_fail: AtomicBool,
    sync_ms: AtomicU64,
    syncs: AtomicU64,
}

#[derive(Debug)]
struct On(Disk, Arc<dyn File>);

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

fn set(flag: &AtomicBool, to: bool) {
    flag.store(to, Ordering::Relaxed);
}

impl Files for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealFiles.list(dir)
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(On(self.clone(), RealFiles.open(path, how)?)))
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        RealFiles.modified_ms(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if is(&self.0.dirs_fail) { Err(failed()) } else { RealFiles.sync_dir(dir) }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        RealFiles.lock(path)
    }
}

impl File for On {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.1.read_at(into, at)
    }

    fn write_at(&self, parts: &[&[u8]], at: u64) -> io::Result<()> {
        if is(&self.0.0.full) {
            // Part of it is written all the same.
            let first = parts.first().map_or(&[][..], |part| &part[..part.len() / 2]);
            self.1.write_at(&[first], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1.write_at(parts, at)
    }

    fn size(&self) -> io::Result<u64> {
        self.1.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(self.0.0.sync_ms.load(Ordering::Relaxed)));
        self.0.0.syncs.fetch_add(1, Ordering::Relaxed);
        if is(&self.0.0.syncs_fail) { Err(failed()) } else { self.1.sync_data() }
    }

    fn sync_all(&self) -> io::Result<()> {
        if is(&self.0.0.syncs_fail) { Err(failed()) } else { self.1.sync_all() }
    }
}

fn failed() -> io::Error {
    io::Error::other("the disk lost it")
}

fn server(disk: &Disk) -> Server {
    let server = Server::start_on(disk.clone());
    server.topic("t", 1);
    server
}

/// The error and the base offset of the fourth value of a producer and so on.
fn send(client: &mut Client, value: &str, sequence: i32) -> (i16, i64) {
    let records = batch(&[value], Some((7, 0, sequence)));
    let answer = client.call(9, &produce(9, "t", Uuid::nil(), records));
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

fn end(client: &mut Client) -> i64 {
    let answer = client.call(12, &fetch(12, "t", Uuid::nil(), 0));
    answer.responses[0].partitions[0].high_watermark
}

fn commit(client: &mut Client, offset: i64) -> i16 {
    use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let committed =
        OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group("g"))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![committed]);
    client.call(8, &request).topics[0].partitions[0].error_code
}

fn committed(client: &mut Client) -> i64 {
    use offset_fetch_request::OffsetFetchRequestTopic;
    let asked =
        OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(vec![0]);
    let request =
        OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![asked]));
    client.call(7, &request).topics[0].partitions[0].committed_offset
}

#[test]
fn requests_of_one_connection_share_syncs_and_are_answered_in_order() {
    let disk = Disk::default();
    let server = server(&disk);
    let mut client = Client::connect(server.address);
    disk.0.sync_ms.store(50, Ordering::Relaxed);
    let before = disk.0.syncs.load(Ordering::Relaxed);
    for at in 0..20 {
        client.send(9, &produce(9, "t", Uuid::nil(), batch(&["v"], Some((7, 0, at)))));
    }
    for at in 0..20 {
        let answer = client.receive::<ProduceRequest>(9);
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, at);
    }
    let syncs = disk.0.syncs.load(Ordering::Relaxed) - before;
    assert!(syncs < 15, "{syncs} syncs for 20 requests");
    // Commits share them too.
    let before = disk.0.syncs.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for at in 0..20 {
            let mut client = Client::connect(server.address);
            scope.spawn(move || assert_eq!(commit(&mut client, at), 0));
        }
    });
    let syncs = disk.0.syncs.load(Ordering::Relaxed) - before;
    assert!(syncs < 15, "{syncs} syncs for 20 commits");
}

#[test]
fn what_a_disk_loses_is_not_acknowledged_and_is_there_once_when_it_is_sent_again() {
    let storage = ResponseError::KafkaStorageError.code();
    type Fault = fn(&State) -> &AtomicBool;
    let faults: [Fault; 2] = [|disk| &disk.full, |disk| &disk.syncs_fail];
    for fault in faults {
        let disk = Disk::default();
        let server = server(&disk);
        let mut client = Client::connect(server.address);
        assert_eq!(send(&mut client, "a", 0), (0, 0));
        set(fault(&disk.0), true);
        for _ in 0..3 {
            assert_eq!(send(&mut client, "b", 1), (storage, -1));
        }
        assert_eq!(end(&mut client), 1, "nobody reads what is not there");
        set(fault(&disk.0), false);
        assert_eq!(send(&mut client, "b", 1), (0, 1));
        assert_eq!(send(&mut client, "b", 1), (0, 1));
        assert_eq!(send(&mut client, "c", 2), (0, 2));
        assert_eq!(end(&mut client), 3);
        assert!(server.log.verify("t").unwrap().is_sound());
    }
}

#[test]
fn a_commit_that_a_disk_loses_is_refused_and_the_next_one_is_kept() {
    let lost = ResponseError::CoordinatorNotAvailable.code();
    type Fault = fn(&State) -> &AtomicBool;
    let faults: [Fault; 3] = [|disk| &disk.full, |disk| &disk.syncs_fail, |disk| &disk.dirs_fail];
    for fault in faults {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let server = Server::start_on_in(disk.clone(), dir.path());
        server.topic("t", 1);
        let mut client = Client::connect(server.address);
        assert_eq!(commit(&mut client, 5), 0);
        set(fault(&disk.0), true);
        if !is(&disk.0.dirs_fail) {
            assert_eq!(commit(&mut client, 6), lost);
            assert_eq!(commit(&mut client, 7), lost);
            assert_eq!(committed(&mut client), 5);
        }
        set(&disk.0.syncs_fail, true);
        assert_eq!(commit(&mut client, 8), lost);
        set(&disk.0.syncs_fail, false);
        if is(&disk.0.dirs_fail) {
            // Its file is written anew, and has no durable name.
            assert_eq!(commit(&mut client, 8), lost);
            assert_eq!(commit(&mut client, 8), lost);
        }
        set(fault(&disk.0), false);
        assert_eq!(commit(&mut client, 9), 0);
        assert_eq!(committed(&mut client), 9);
        drop((client, server));
        let server = Server::start_in(dir.path(), |_| {});
        assert_eq!(committed(&mut Client::connect(server.address)), 9);
    }
}
