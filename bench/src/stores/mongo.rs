//! The server of MongoDB's protocol that the project's own starter runs, with the owners of sites.

use super::cassandra::{KEYSPACE, segment};
use crate::pipeline::runtime;
use crate::services;
use anyhow::{Context, Result};
use mongodb::Client;
use mongodb::bson::{Document, doc};

/// The server here looks at each document that there is for every list of keys that it is asked for.
const OWNERS: u64 = 200;

pub struct Mongo {
    pub host: String,
    uri: String,
}

impl Mongo {
    /// One server, started if there is none.
    pub fn up() -> Result<Mongo> {
        let text = services::started("mongo")?;
        let uri = text.lines().find_map(|line| line.strip_prefix("MONGODB_URI="));
        let uri = uri.context("the starter says MONGODB_URI=")?.to_owned();
        let host = uri.trim_start_matches("mongodb://").trim_end_matches('/').to_owned();
        Ok(Mongo { host, uri })
    }

    /// An owner for each remainder of a site's number.
    pub fn load_owners(&self) -> Result<()> {
        let owners = (0..OWNERS).map(|owner| {
            doc! {
                "_id": owner as i32,
                "owner": { "name": format!("Owner {owner}"), "tier": segment(owner) },
            }
        });
        runtime("store", 1)?.block_on(async {
            let client = Client::with_uri_str(&self.uri).await?;
            let collection = client.database(KEYSPACE).collection::<Document>("owners");
            collection.drop().await?;
            collection.insert_many(owners).await?;
            Ok(())
        })
    }
}
