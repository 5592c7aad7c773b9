//! Whether what a file says of HTTP servers, files and the standard output fits the rows. No server
//! is asked, as it has no schema to compare with; the files that the client needs are read.

use super::lookups::declared;
use super::{Planner, SinkPlan};
use crate::connectors::web;
use arrow_schema::SchemaRef;
use millstream_config::{FilesTo, HttpFrom, HttpTo, StdoutFormat};
use millstream_files::Files;
use millstream_formats::json::JsonEncoder;
use millstream_http::HttpTarget;
use millstream_sql::KEY_COLUMNS;

impl Planner<'_> {
    /// The columns of a look-up, with those that it is asked by.
    pub(super) fn http_lookup(&mut self, name: &str, from: &HttpFrom) -> Option<SchemaRef> {
        let path = format!("/lookups/{name}/http");
        if let Err(why) = web::headers_of(&from.client) {
            self.mistake(&format!("{path}/headers"), why, None);
        }
        if self.catalog.asks_elsewhere()
            && let Err(error) = web::http_client(&from.client, self.file)
        {
            self.refusal(&path, &error, None);
            return None;
        }
        match web::key_of(from) {
            Ok(key) => Some(declared(&from.columns.schema(), KEY_COLUMNS, key.join(","))),
            Err(why) => {
                self.mistake(&format!("{path}/url"), why, None);
                None
            }
        }
    }

    /// Whether a server can be asked by the columns that the SQL joins on.
    pub(super) fn check_http_key(
        &self,
        name: &str,
        from: &HttpFrom,
        asked: &[String],
    ) -> Result<(), (String, String)> {
        let Ok(key) = web::key_of(from) else { return Ok(()) };
        let same = key.len() == asked.len() && key.iter().all(|column| asked.contains(column));
        match same {
            true => Ok(()),
            false => Err((
                format!("`{name}` cannot be asked by {}", asked.join(", ")),
                format!("its key is {}: join on all of it", key.join(", ")),
            )),
        }
    }

    pub(super) fn http_sink(
        &mut self,
        at: usize,
        to: &HttpTo,
        schema: &SchemaRef,
    ) -> Option<SinkPlan> {
        let path = format!("/sinks/{at}/http");
        let before = self.mistakes.len();
        if let Err(why) = web::headers_of(&to.client) {
            self.mistake(&format!("{path}/headers"), why, None);
        }
        if let Some(name) = &to.idempotency_header
            && let Err(why) = web::header_name(name)
        {
            self.mistake(&format!("{path}/idempotency_header"), why, None);
        }
        let field = if to.url.is_some() { "url" } else { "url_column" };
        let fits = web::http_target(to).and_then(|target| HttpTarget::accepts(schema, &target));
        if let Err(why) = fits {
            self.mistake(&format!("{path}/{field}"), why, None);
        }
        if self.catalog.asks_elsewhere()
            && let Err(error) = web::http_client(&to.client, self.file)
        {
            self.refusal(&path, &error, None);
        }
        let shown = match (&to.url, &to.url_column) {
            // A query may hold a secret.
            (Some(url), _) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
            (None, column) => format!("by column {}", column.as_deref().unwrap_or_default()),
        };
        (self.mistakes.len() == before).then(|| SinkPlan::Outside { to: format!("http {shown}") })
    }

    pub(super) fn files_sink(
        &mut self,
        at: usize,
        to: &FilesTo,
        schema: &SchemaRef,
    ) -> Option<SinkPlan> {
        let path = format!("/sinks/{at}/files");
        let options = match web::files_options(to, self.file, ("", "")) {
            Ok(options) => options,
            Err(why) => {
                self.mistake(&format!("{path}/folder"), why, None);
                return None;
            }
        };
        let base = options.folder.base();
        if let Some(there) = base.ancestors().find(|path| path.exists())
            && !there.is_dir()
        {
            let message = format!("{} is a file, not a folder", there.display());
            self.mistake(&format!("{path}/folder"), message, None);
            return None;
        }
        if let Err(why) = Files::accepts(schema, &options) {
            self.mistake(&path, why, None);
            return None;
        }
        Some(SinkPlan::Outside { to: format!("files in {}", to.folder.display()) })
    }

    pub(super) fn stdout_sink(
        &mut self,
        at: usize,
        shown: StdoutFormat,
        schema: &SchemaRef,
    ) -> Option<SinkPlan> {
        if shown == StdoutFormat::JsonLines
            && let Err(error) = JsonEncoder::new(schema.clone())
        {
            self.mistake(&format!("/sinks/{at}/stdout"), error.chain(), None);
            return None;
        }
        Some(SinkPlan::Outside { to: "the standard output".to_owned() })
    }
}
