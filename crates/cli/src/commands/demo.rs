//! `millstream demo`: the main job on real data.

use crate::cli::Global;
use crate::failure::Result;
use clap::Args;

/// Run the main job on real data and show it
#[derive(Debug, Args)]
pub struct DemoArgs {}

impl DemoArgs {
    pub fn run(self, _global: &Global) -> Result<()> {
        Ok(())
    }
}
