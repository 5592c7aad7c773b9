//! The log: a directory of topics, what is known of each, and what runs in the background.
//!
//! How the directory is laid out is in [`crate::directory`].

use crate::directory::{
    UNFINISHED, check_format, check_name, in_parallel, read_topic, write_format, write_topic,
};
use crate::error::{Error, Result};
use crate::options::{Options, SyncMode, TopicOptions};
use crate::partition::{Gone, Partition, PartitionLog, Shared};
use crate::recover;
use crate::retention::Removed;
use crate::stats::{Counters, Stats};
use crate::syncer::{STACK_BYTES, Syncer};
use crate::verify::Report;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

/// A handle to the log. Cheap to clone; the log is closed when the last one is dropped.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// A topic of a log. Cheap to clone.
#[derive(Clone)]
pub struct Topic(Arc<TopicState>);

struct Handle(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    shared: Arc<Shared>,
    topics: RwLock<BTreeMap<String, Topic>>,
    revision: AtomicU64,
    /// One at a time makes, deletes or closes.
    admin: Mutex<()>,
    background: Mutex<Option<JoinHandle<()>>>,
    stop: Mutex<bool>,
    stopped: Condvar,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

struct TopicState {
    id: Uuid,
    name: Arc<str>,
    options: Arc<TopicOptions>,
    partitions: Vec<PartitionLog>,
}

impl Log {
    /// Opens the log in a directory, which is made where it is missing, and recovers it.
    ///
    /// A partition that is damaged is refused by itself (see [`Log::refused`]); the others work.
    pub fn open(dir: &Path, options: Options) -> Result<Log> {
        let files = options.files.clone();
        files.create_dir(dir).map_err(|error| Error::io("cannot create", dir, error))?;
        let is_new = check_format(&*files, dir)?.is_none();
        let lock_path = dir.join("lock");
        let lock = files.lock(&lock_path);
        let lock = lock.map_err(|error| Error::io("cannot lock", &lock_path, error))?;
        let Some(lock) = lock else { return Err(Error::Locked { dir: dir.to_owned() }) };
        if is_new {
            write_format(&*files, dir)?;
        }
        let topics = dir.join("topics");
        files.create_dir(&topics).map_err(|error| Error::io("cannot create", &topics, error))?;
        // What an earlier process made, it may not have lived to sync.
        for dir in [&*topics, dir] {
            files.sync_dir(dir).map_err(|error| Error::sync(dir, error))?;
        }
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            match files.sync_dir(parent) {
                // A directory that may be passed but not read was there before the log.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(|error| Error::sync(parent, error))?,
            }
        }
        Self::start(dir, options, false, Some(lock))
    }

    /// Opens the log to look at what it holds now. Takes no lock and writes nothing; a torn tail is
    /// not shown, and what is appended later is not seen.
    pub fn open_read_only(dir: &Path) -> Result<Log> {
        Self::open_read_only_with(dir, Options::default())
    }

    /// As [`Self::open_read_only`], on another file layer.
    pub fn open_read_only_with(dir: &Path, options: Options) -> Result<Log> {
        if check_format(&*options.files, dir)?.is_none() {
            let what = "it is empty".to_owned();
            return Err(Error::NotALog { dir: dir.to_owned(), what });
        }
        Self::start(dir, options, true, None)
    }

    fn start(
        dir: &Path,
        options: Options,
        read_only: bool,
        lock: Option<Box<dyn Send + Sync>>,
    ) -> Result<Log> {
        let tick = match options.sync {
            SyncMode::GroupCommit => options.recovery_every,
            SyncMode::Relaxed { every } => every.min(options.recovery_every),
        };
        let syncer = Syncer::new(options.sync_threads);
        let counters = Counters::default();
        let buffers = Default::default();
        let shared = Shared { options, counters, syncer, buffers, read_only };
        let inner = Inner {
            dir: dir.to_owned(),
            shared: Arc::new(shared),
            topics: RwLock::default(),
            revision: AtomicU64::new(1),
            admin: Mutex::default(),
            background: Mutex::default(),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
            lock: Mutex::new(lock),
        };
        inner.load_topics()?;
        let log = Log { handle: Arc::new(Handle(Arc::new(inner))) };
        if !read_only && tick < Duration::MAX {
            let inner = log.handle.0.clone();
            let thread = std::thread::Builder::new()
                .name("log-points".into())
                .stack_size(STACK_BYTES)
                .spawn(move || inner.tick(tick));
            let thread = thread.map_err(|error| Error::io("cannot start a thread for", dir, error));
            *log.handle.0.background.lock() = Some(thread?);
        }
        Ok(log)
    }

    /// Makes a topic; durable when this returns.
    pub fn create_topic(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        let inner = &self.handle.0;
        let _admin = inner.admin.lock();
        inner.check_writable()?;
        check_name(name)?;
        options.check()?;
        if inner.topics.read().contains_key(name) {
            return Err(Error::TopicExists(name.to_owned()));
        }
        let files = &*inner.shared.options.files;
        let id = Uuid::new_v4();
        let topics = inner.dir.join("topics");
        let unfinished = topics.join(format!("{UNFINISHED}new-{id}"));
        files
            .create_dir(&unfinished)
            .map_err(|error| Error::io("cannot create", &unfinished, error))?;
        let made = in_parallel(options.partitions as usize, |index| {
            recover::create(files, &unfinished.join(index.to_string()))
        });
        made.into_iter().collect::<Result<Vec<()>>>()?;
        write_topic(files, &unfinished.join("topic.json"), id, &options)?;
        files.sync_dir(&unfinished).map_err(|error| Error::sync(&unfinished, error))?;
        let dir = topics.join(name);
        files.rename(&unfinished, &dir).map_err(|error| Error::io("cannot create", &dir, error))?;
        if let Err(error) = files.sync_dir(&topics) {
            // Not made: the name must be free for the next attempt.
            let _ = files.rename(&dir, &unfinished);
            return Err(Error::sync(&topics, error));
        }

        let topic = inner.open_topic(name, id, options);
        inner.put(topic.clone());
        Ok(topic)
    }

    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.handle.0.topics.read().get(name).cloned()
    }

    pub fn topic_by_id(&self, id: Uuid) -> Option<Topic> {
        self.handle.0.topics.read().values().find(|topic| topic.id() == id).cloned()
    }

    /// Another number once a topic was made, changed or deleted. Never 0.
    pub fn revision(&self) -> u64 {
        self.handle.0.revision.load(Ordering::Acquire)
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Topic> {
        self.handle.0.topics.read().values().cloned().collect()
    }

    /// Gives a topic more partitions, durably; those that it has stay as they are. Handles that were
    /// there before know the old ones only.
    pub fn add_partitions(&self, name: &str, partitions: u32) -> Result<Topic> {
        let inner = &self.handle.0;
        let _admin = inner.admin.lock();
        inner.check_writable()?;
        let topic = self.topic(name).ok_or_else(|| Error::NoTopic(name.to_owned()))?;
        let has = topic.partitions();
        if partitions <= has {
            return Err(Error::TopicOption {
                option: "partitions",
                value: partitions.into(),
                what: "a topic only gets more of them",
            });
        }
        let options = TopicOptions { partitions, ..topic.options().clone() };
        options.check()?;
        let files = &*inner.shared.options.files;
        let dir = inner.dir.join("topics").join(name);
        let made = in_parallel((partitions - has) as usize, |at| {
            recover::create(files, &dir.join((has as usize + at).to_string()))
        });
        made.into_iter().collect::<Result<Vec<()>>>()?;
        inner.replace(&topic, options)
    }

    /// Changes what a topic is kept by (not its partitions), durably.
    pub fn alter_topic(&self, name: &str, change: impl FnOnce(&mut TopicOptions)) -> Result<Topic> {
        let inner = &self.handle.0;
        let _admin = inner.admin.lock();
        inner.check_writable()?;
        let topic = self.topic(name).ok_or_else(|| Error::NoTopic(name.to_owned()))?;
        let mut options = topic.options().clone();
        change(&mut options);
        options.partitions = topic.partitions();
        options.check()?;
        inner.replace(&topic, options)
    }

    /// Deletes a topic and everything in it; gone for good when this returns.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let inner = &self.handle.0;
        let _admin = inner.admin.lock();
        inner.check_writable()?;
        let topic = self.topic(name).ok_or_else(|| Error::NoTopic(name.to_owned()))?;
        let files = &*inner.shared.options.files;
        let topics = inner.dir.join("topics");
        let dir = topics.join(name);
        let doomed = topics.join(format!("{UNFINISHED}deleted-{}", topic.id()));
        files.rename(&dir, &doomed).map_err(|error| Error::io("cannot delete", &dir, error))?;
        inner.topics.write().remove(name);
        inner.revision.fetch_add(1, Ordering::Release);
        for partition in &topic.0.partitions {
            partition.0.refuse_appends(Gone::Deleted);
            partition.0.end(Error::Deleted(topic.0.name.clone()));
        }
        files.sync_dir(&topics).map_err(|error| Error::sync(&topics, error))?;
        if let Err(error) = files.remove_dir(&doomed) {
            // The next open tries again.
            tracing::warn!(topic = name, %error, "files of a deleted topic were left behind");
        }
        Ok(())
    }

    /// Partitions that were refused when the log was opened, and why.
    pub fn refused(&self) -> Vec<(Arc<str>, u32, Error)> {
        let partitions = self.handle.0.partitions();
        let refused = partitions.iter().filter_map(|partition| {
            Some((partition.topic().clone(), partition.index(), partition.refused()?.clone()))
        });
        refused.collect()
    }

    /// Tells retention how far a pipeline has come. Also for a pipeline that has committed nothing:
    /// with the offset that it will start from.
    ///
    /// Kept in memory only, so known pipelines are told before [`Self::enforce_retention`] is first
    /// called. An offset beyond the log's end is an error.
    pub fn set_low_commit(
        &self,
        topic: &str,
        partition: u32,
        pipeline: &str,
        offset: i64,
    ) -> Result<()> {
        let found = self.topic(topic).and_then(|topic| topic.partition(partition));
        let partition = found.ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
        partition.check_offset(offset)?;
        let mut low_commits = partition.0.low_commits.lock();
        match low_commits.get_mut(pipeline) {
            Some(low) => *low = offset,
            None => drop(low_commits.insert(pipeline.to_owned(), offset)),
        }
        Ok(())
    }

    /// Retention waits for this pipeline no more, in any partition of the topic.
    pub fn forget_pipeline(&self, topic: &str, pipeline: &str) {
        for partition in self.topic(topic).iter().flat_map(|topic| &topic.0.partitions) {
            partition.0.low_commits.lock().remove(pipeline);
        }
    }

    /// Removes what the topics' options no longer keep. A partition that fails is left for the next
    /// time; the error is that of the first one.
    pub fn enforce_retention(&self, now_ms: i64) -> Result<Vec<Removed>> {
        self.handle.0.check_writable()?;
        let mut removed = Vec::new();
        let mut failed = None;
        for partition in self.handle.0.partitions() {
            match partition.0.enforce_retention(now_ms) {
                Ok(found) => removed.extend(found),
                Err(Error::Deleted(_)) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Reads every batch of a topic.
    pub fn verify(&self, topic: &str) -> Result<Report> {
        let topic = self.topic(topic).ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
        let reports = topic.0.partitions.iter().map(|partition| partition.0.verify());
        Ok(Report { partitions: reports.collect::<Result<_>>()? })
    }

    /// Makes the recovery points durable; also done in the background and on close.
    pub fn save_points(&self) -> Result<()> {
        let partitions = self.handle.0.partitions();
        partitions.iter().try_for_each(|partition| partition.0.save_point())
    }

    pub fn stats(&self) -> Stats {
        self.handle.0.shared.counters.snapshot()
    }

    pub fn dir(&self) -> &Path {
        &self.handle.0.dir
    }

    /// Syncs everything, writes the recovery points and lets go of the directory. What is left of
    /// this log (topics, partitions, readers) answers [`Error::Closed`] from now on. Blocks for as
    /// long as the last sync takes.
    pub fn close(&self) {
        self.handle.0.close();
    }
}

impl Topic {
    /// Stable for the life of the topic; one that is made again under the same name has another.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn options(&self) -> &TopicOptions {
        &self.0.options
    }

    pub fn partitions(&self) -> u32 {
        self.0.partitions.len() as u32
    }

    pub fn partition(&self, index: u32) -> Option<PartitionLog> {
        self.0.partitions.get(index as usize).cloned()
    }

    pub fn bytes(&self) -> u64 {
        self.0.partitions.iter().map(PartitionLog::bytes).sum()
    }
}

impl Inner {
    fn check_writable(&self) -> Result<()> {
        match (self.shared.read_only, *self.stop.lock()) {
            (true, _) => Err(Error::ReadOnly),
            (_, true) => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    /// Puts other options in a topic's place, and opens the partitions that they add.
    fn replace(&self, topic: &Topic, options: TopicOptions) -> Result<Topic> {
        let files = &*self.shared.options.files;
        let dir = self.dir.join("topics").join(topic.name());
        let (new, path) = (dir.join("topic.json.new"), dir.join("topic.json"));
        write_topic(files, &new, topic.id(), &options)?;
        files.rename(&new, &path).map_err(|error| Error::io("cannot create", &path, error))?;
        files.sync_dir(&dir).map_err(|error| Error::sync(&dir, error))?;
        let options = Arc::new(options);
        let mut partitions = topic.0.partitions.clone();
        for partition in &partitions {
            partition.0.set_config(options.clone());
        }
        for index in partitions.len() as u32..options.partitions {
            let dir = dir.join(index.to_string());
            let (shared, name) = (self.shared.clone(), topic.0.name.clone());
            let opened = Partition::open(shared, name, index, dir, options.clone());
            partitions.push(PartitionLog(Arc::new(opened)));
        }
        let (id, name) = (topic.0.id, topic.0.name.clone());
        let topic = Topic(Arc::new(TopicState { id, name, options, partitions }));
        self.put(topic.clone());
        Ok(topic)
    }

    fn put(&self, topic: Topic) {
        self.topics.write().insert(topic.name().to_owned(), topic);
        self.revision.fetch_add(1, Ordering::Release);
    }

    fn partitions(&self) -> Vec<PartitionLog> {
        let topics = self.topics.read();
        topics.values().flat_map(|topic| topic.0.partitions.iter().cloned()).collect()
    }

    fn load_topics(&self) -> Result<()> {
        let files = &*self.shared.options.files;
        let topics = self.dir.join("topics");
        let listed = match files.list(&topics) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|error| Error::io("cannot list", &topics, error))?,
        };
        let mut found = BTreeMap::new();
        for entry in listed.into_iter().filter(|entry| entry.is_dir) {
            let dir = topics.join(&entry.name);
            if entry.name.starts_with(UNFINISHED) {
                if !self.shared.read_only {
                    let removed = files.remove_dir(&dir);
                    removed.map_err(|error| Error::io("cannot remove", &dir, error))?;
                }
                continue;
            }
            let (id, options) = read_topic(files, &dir.join("topic.json"))?;
            found.insert(entry.name.clone(), self.open_topic(&entry.name, id, options));
        }
        *self.topics.write() = found;
        Ok(())
    }

    fn open_topic(&self, name: &str, id: Uuid, options: TopicOptions) -> Topic {
        let name: Arc<str> = name.into();
        let options = Arc::new(options);
        let dir = self.dir.join("topics").join(&*name);
        let partitions = in_parallel(options.partitions as usize, |index| {
            let (shared, dir) = (self.shared.clone(), dir.join(index.to_string()));
            let index = index as u32;
            let opened = Partition::open(shared, name.clone(), index, dir, options.clone());
            PartitionLog(Arc::new(opened))
        });
        Topic(Arc::new(TopicState { id, name, options, partitions }))
    }

    fn tick(&self, every: Duration) {
        let mut stop = self.stop.lock();
        while !*stop {
            self.stopped.wait_for(&mut stop, every);
            if *stop {
                return;
            }
            parking_lot::MutexGuard::unlocked(&mut stop, || {
                for partition in self.partitions() {
                    if matches!(self.shared.options.sync, SyncMode::Relaxed { .. }) {
                        partition.0.sync_soon();
                    }
                    if let Err(error) = partition.0.save_point() {
                        // The one before still stands: the next open reads more, and loses nothing.
                        tracing::warn!(%error, "a recovery point could not be written");
                    }
                }
            });
        }
    }

    fn close(&self) {
        let _admin = self.admin.lock();
        if std::mem::replace(&mut *self.stop.lock(), true) {
            return;
        }
        self.stopped.notify_all();
        if let Some(thread) = self.background.lock().take() {
            let _ = thread.join();
        }
        let partitions = self.partitions();
        for partition in &partitions {
            partition.0.refuse_appends(Gone::Closed);
        }
        if !self.shared.read_only {
            for partition in &partitions {
                partition.0.sync_soon();
            }
            self.shared.syncer.stop();
            let saved = in_parallel(partitions.len(), |at| partitions[at].0.save_point());
            if let Some(error) = saved.into_iter().find_map(Result::err) {
                tracing::warn!(%error, "a recovery point could not be written");
            }
        }
        for partition in &partitions {
            partition.0.end(Error::Closed);
        }
        self.topics.write().clear();
        *self.lock.lock() = None;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}
