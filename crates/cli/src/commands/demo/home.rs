//! The demo's directory: whose it is, and whether the last demo in it had come to its end.

use super::data;
use crate::failure::{Mistake, Result};
use crate::output;
use anyhow::Context;
use millstream_console::{Client, SOCKET};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Says that the directory is a demo's, and how far it has come.
const MARKER: &str = "demo.json";
/// The pipeline files and the generated logs.
const FILES: &str = "demo";

/// The files that the demo's pipelines read, as they are in the source tree.
const EXAMPLES: [(&str, &str); 7] = [
    ("access.yaml", include_str!("../../../../../examples/demo/access.yaml")),
    ("cran.yaml", include_str!("../../../../../examples/demo/cran.yaml")),
    ("enrich.yaml", include_str!("../../../../../examples/demo/enrich.yaml")),
    ("navigation.avsc", include_str!("../../../../../examples/demo/navigation.avsc")),
    ("ip_country.csv", include_str!("../../../../../examples/demo/ip_country.csv")),
    ("countries.csv", include_str!("../../../../../examples/demo/countries.csv")),
    ("agents.csv", include_str!("../../../../../examples/demo/agents.csv")),
];

pub struct DemoHome {
    dir: PathBuf,
    /// Lines that this demo replays.
    pub events: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    events: u64,
    /// Whether the files are all there.
    prepared: bool,
    finished: bool,
}

impl DemoHome {
    pub fn prepare(dir: &Path, events: u64) -> Result<Self> {
        let home = Self { dir: dir.to_owned(), events };
        match home.marker()? {
            Some(marker) if marker.prepared && !marker.finished => {
                output::line("Continuing the demo that was interrupted.")?;
                if marker.events != events {
                    output::line(format!(
                        "It replays {} lines; --events counts from the next demo on.",
                        output::count(marker.events)
                    ))?;
                }
                return Ok(Self { events: marker.events, ..home });
            }
            Some(_) => home.clear()?,
            None if home.is_taken()? => {
                return Err(Mistake::new(format!(
                    "{} holds something that no demo made, and a demo begins with an empty \
                     directory: choose another with --data",
                    dir.display()
                )));
            }
            None => {}
        }
        fs::create_dir_all(home.files())
            .with_context(|| format!("cannot make the directory {}", home.files().display()))?;
        home.mark(&Marker { events, prepared: false, finished: false })?;
        home.write_files()?;
        home.mark(&Marker { events, prepared: true, finished: false })?;
        Ok(home)
    }

    /// The pipeline files.
    pub fn pipelines(&self) -> Vec<PathBuf> {
        ["access.yaml", "cran.yaml", "enrich.yaml"].map(|name| self.files().join(name)).into()
    }

    /// The next demo starts clean.
    pub fn finished(&self) -> Result<()> {
        self.mark(&Marker { events: self.events, prepared: true, finished: true })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn files(&self) -> PathBuf {
        self.dir.join(FILES)
    }

    fn marker(&self) -> Result<Option<Marker>> {
        match fs::read(self.dir.join(MARKER)) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok().or(Some(Marker {
                events: self.events,
                prepared: false,
                finished: false,
            }))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Mistake::new(format!("cannot read {}: {error}", self.dir.display()))),
        }
    }

    /// Replaces the marker whole, so that a crash leaves the old one or the new one.
    fn mark(&self, marker: &Marker) -> Result<()> {
        let next = self.dir.join(format!("{MARKER}.next"));
        let mut file = fs::File::create(&next)
            .with_context(|| format!("cannot write to {}", self.dir.display()))?;
        file.write_all(serde_json::to_string(marker)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, self.dir.join(MARKER))?;
        Ok(())
    }

    fn is_taken(&self) -> Result<bool> {
        if !self.dir.exists() {
            return Ok(false);
        }
        let mut entries = fs::read_dir(&self.dir).map_err(|error| {
            Mistake::new(format!("cannot read {}: {error}", self.dir.display()))
        })?;
        Ok(entries.next().is_some())
    }

    /// Removes what demos make, and nothing else.
    fn clear(&self) -> Result<()> {
        let runs = self.dir.join(SOCKET).exists()
            && crate::session::runtime()?.block_on(Client::connect(&self.dir)).is_ok();
        if runs {
            return Err(Mistake::new(format!(
                "a process runs on {}: end it first, or choose another --data",
                self.dir.display()
            )));
        }
        for name in ["log", "tables", "registry", FILES] {
            match fs::remove_dir_all(self.dir.join(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("clearing {} away", self.dir.join(name).display())
                    });
                }
            }
        }
        Ok(())
    }

    fn write_files(&self) -> Result<()> {
        let dir = self.files();
        for (name, text) in EXAMPLES {
            // The files stand on their own: they read the logs that are written beside them.
            let text = text
                .replace("${DEMO_ACCESS:-access.log.gz}", "access.log")
                .replace("${DEMO_CRAN:-cran.csv.gz}", "cran.csv");
            fs::write(dir.join(name), text)
                .with_context(|| format!("writing {}", dir.join(name).display()))?;
        }
        let (access, cran) = data::shares(self.events);
        data::write_access(&dir.join("access.log"), access).context("writing the access log")?;
        data::write_cran(&dir.join("cran.csv"), cran).context("writing the download log")?;
        Ok(())
    }
}
