//! The picture of the job.

use super::data::shares;
use crate::output;

/// Fits 80 columns.
pub fn picture(events: u64) -> String {
    let (access, cran) = shares(events);
    let (access, cran) = (output::count(access), output::count(cran));
    format!(
        "\n\
┌─────────────┐  ┌────────┐     ┌────────────┐  ┌─────────┐   ┌──────────────┐
│ access.log  ├─►│ access ├──┐  │ topic      │  │ enrich  ├─┬►│ topic        │
│ {access:<11} │  └───┬────┘  ├─►│ navigation ├─►│ look up │ │ │ enriched     │
└─────────────┘      │       │  │ Avro       │  │ SQL     │ │ └──────────────┘
┌─────────────┐  ┌───┼────┐  │  │ 20 parts   │  └────▲────┘ │ ┌──────────────┐
│ cran.csv    ├─►│ cran   ├──┘  └────────────┘       │      └►│ table        │
│ {cran:<11} │  └───┼────┘                     ip_country    │ by user      │
└─────────────┘      ▼                          countries     └──────────────┘
            topic navigation.dead               agents

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_fits_a_terminal() {
        for events in [100, 500_000, 1_000_000_000] {
            for line in picture(events).lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}
