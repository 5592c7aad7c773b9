//! The data directory: everything that is embedded, opened together.
//!
//! ```text
//! DIR/log/        topics                    (millstream-log)
//! DIR/tables/     tables, offsets, state    (millstream-tables)
//! DIR/registry/   schemas                   (millstream-registry)
//! DIR/broker/     offsets of Kafka's groups (millstream-broker)
//! DIR/files/      which files a followed file's offsets count in, by pipeline
//! DIR/identity      what tells its transactions from those of other directories
//! DIR/millstream.sock   the admin socket while `run` is up
//! ```

use millstream_log::Log;
use millstream_registry::Registry;
use millstream_tables::Database;
use std::path::{Path, PathBuf};

/// An opened data directory. Cheap to clone.
#[derive(Clone)]
pub struct Home {
    pub dir: PathBuf,
    pub log: Log,
    pub tables: Database,
    pub registry: Registry,
}

#[derive(Clone, Default)]
pub struct HomeOptions {
    pub log: millstream_log::Options,
    pub tables: millstream_tables::Options,
}

impl Home {
    /// Opens a data directory for reading and writing, and makes it when it is not there. One
    /// process at a time.
    pub fn open(dir: &Path, options: HomeOptions) -> anyhow::Result<Home> {
        use anyhow::Context;
        std::fs::create_dir_all(dir).with_context(|| {
            format!("cannot make the data directory {}: choose another with --data", dir.display())
        })?;
        Ok(Home {
            dir: dir.to_owned(),
            log: Log::open(&dir.join("log"), options.log)
                .with_context(|| format!("opening the log in {}", dir.display()))?,
            tables: Database::open(dir.join("tables"), options.tables)
                .with_context(|| format!("opening the tables in {}", dir.display()))?,
            registry: Registry::open(&dir.join("registry"))
                .with_context(|| format!("opening the schema registry in {}", dir.display()))?,
        })
    }

    /// Where a pipeline that follows a file keeps which files its offsets count in.
    pub fn file_notes(&self, pipeline: &str) -> PathBuf {
        self.dir.join("files").join(pipeline)
    }

    /// A name that no other data directory has, the same for as long as it is there.
    pub fn identity(&self) -> std::io::Result<String> {
        let path = self.dir.join("identity");
        match std::fs::read_to_string(&path) {
            Ok(known) if !known.trim().is_empty() => return Ok(known.trim().to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let new = uuid::Uuid::new_v4().simple().to_string();
        let draft = self.dir.join("identity.new");
        let mut file = std::fs::File::create(&draft)?;
        std::io::Write::write_all(&mut file, new.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        Ok(new)
    }

    /// Opens a stopped data directory to look at it. The tables are opened when they are needed:
    /// who needs them asks [`Database::ready`] first.
    pub fn open_read_only(dir: &Path) -> anyhow::Result<Home> {
        use anyhow::Context;
        if !dir.is_dir() {
            anyhow::bail!(
                "there is no data directory {}: name it with --data, or `millstream run` a \
                 pipeline first",
                dir.display()
            );
        }
        Ok(Home {
            dir: dir.to_owned(),
            log: Log::open_read_only(&dir.join("log"))
                .with_context(|| format!("opening the log in {}", dir.display()))?,
            tables: Database::open_read_only_later(dir.join("tables"), Default::default())
                .with_context(|| format!("opening the tables in {}", dir.display()))?,
            registry: Registry::open_read_only(&dir.join("registry"))
                .with_context(|| format!("opening the schema registry in {}", dir.display()))?,
        })
    }
}
