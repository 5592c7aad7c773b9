//! A data directory with an engine on it.

use millstream_config::{Env, Mistakes, Pipeline, load_many, parse};
use millstream_connectors::{Home, HomeOptions};
use millstream_core::Records;
use millstream_engine::{Catalog, Committer, Engine, Metrics, PipelineReport, open, plan_all};
use millstream_log::Reader;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Bench {
    pub home: Home,
    pub engine: Engine,
    pub metrics: Metrics,
    committer: Committer,
}

/// Environment variables for `${VAR}`: none.
pub struct NoEnv;

impl Env for NoEnv {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }
}

impl Bench {
    pub fn at(dir: &Path) -> Self {
        let home = Home::open(dir, HomeOptions::default()).unwrap();
        let (committer, commits) = Committer::new(home.clone(), Duration::from_millis(5));
        tokio::spawn(commits);
        let engine = Engine::new(tokio::runtime::Handle::current());
        Self { home, engine, metrics: Metrics::new(), committer }
    }

    pub async fn start(&self, files: &[Pipeline]) {
        let mut catalog = Catalog::new(self.home.clone());
        let plans =
            plan_all(files, &mut catalog).await.unwrap_or_else(|m| panic!("{}", m.render(false)));
        for plan in plans {
            let file = files.iter().find(|f| f.spec.pipeline == plan.spec.pipeline).unwrap();
            let opened =
                open(plan, file, &self.home, self.committer.clone(), &self.metrics).await.unwrap();
            self.engine.start(opened);
        }
    }

    pub async fn mistakes(&self, files: &[Pipeline]) -> Option<Mistakes> {
        plan_all(files, &mut Catalog::new(self.home.clone())).await.err()
    }

    /// Waits until everything that is there was read and settled.
    pub async fn idle(&self) {
        for _ in 0..6000 {
            if self.engine.is_idle() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still busy after a minute: {:#?}", self.engine.reports());
    }

    pub fn report(&self, pipeline: &str) -> PipelineReport {
        self.engine.reports().into_iter().find(|r| r.name == pipeline).unwrap()
    }

    /// The records of all partitions of a topic.
    pub fn records(&self, topic: &str) -> Vec<Records> {
        let topic = self.home.log.topic(topic).unwrap();
        let mut all = Vec::new();
        for partition in 0..topic.partitions() {
            let partition = topic.partition(partition).unwrap();
            let mut reader = Reader::new(&partition, partition.start_offset(), 1 << 20).unwrap();
            while let Some(records) = reader.try_next().unwrap() {
                all.push(records);
            }
        }
        all
    }
}

pub fn file(dir: &Path, name: &str, text: &str) -> Pipeline {
    parse(text, &dir.join(name), &NoEnv).unwrap_or_else(|m| panic!("{}", m.render(false)))
}

pub fn files(paths: &[PathBuf]) -> Vec<Pipeline> {
    load_many(paths, &NoEnv).unwrap_or_else(|m| panic!("{}", m.render(false)))
}
