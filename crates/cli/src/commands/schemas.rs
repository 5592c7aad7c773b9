//! `millstream schemas`: the embedded schema registry, or one elsewhere.

use super::produce::read_text;
use crate::cli::Global;
use crate::elsewhere::RegistryArgs;
use crate::failure::{Mistake, Result, Said};
use crate::output::{self, JsonArg, Table};
use crate::session;
use crate::words;
use clap::{Args, Subcommand, ValueEnum};
use millstream_console::answers::{Compatibility, Schema, Subject};
use millstream_console::{Code, Request, SchemaText};
use std::path::{Path, PathBuf};

/// List, show, register and compare schemas
#[derive(Debug, Args)]
pub struct SchemasArgs {
    #[command(subcommand)]
    command: SchemasCommand,
}

#[derive(Debug, Subcommand)]
enum SchemasCommand {
    /// List all subjects
    #[command(
        after_help = "Examples:\n  millstream schemas list\n  millstream schemas list --registry http://registry:8081\n  millstream schemas list --file enrich.yaml"
    )]
    List {
        #[command(flatten)]
        registry: RegistryArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a schema
    #[command(
        after_help = "Examples:\n  millstream schemas show navigation-value\n  millstream schemas show --id 1\n  millstream schemas show orders-value --registry http://registry:8081"
    )]
    Show {
        /// The subject
        #[arg(required_unless_present = "id")]
        subject: Option<String>,
        /// The version: a number, or `latest`
        #[arg(long = "schema-version", value_name = "VERSION")]
        version: Option<String>,
        /// The schema of this id
        #[arg(long, conflicts_with_all = ["subject", "version"])]
        id: Option<u32>,
        #[command(flatten)]
        registry: RegistryArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Register a schema as the next version of a subject
    #[command(
        after_help = "Examples:\n  millstream schemas register navigation-value examples/demo/navigation.avsc\n  millstream schemas register orders-value order.proto --kind protobuf --file enrich.yaml"
    )]
    Register {
        /// The subject
        subject: String,
        #[command(flatten)]
        schema: SchemaArgs,
        #[command(flatten)]
        registry: RegistryArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Say whether a schema could be the next version of a subject
    #[command(
        after_help = "Example:\n  millstream schemas compatible navigation-value examples/demo/navigation.avsc\n\nThe exit code is 1 when it could not."
    )]
    Compatible {
        /// The subject
        subject: String,
        #[command(flatten)]
        schema: SchemaArgs,
        /// Compare with this version only: a number, or `latest`
        #[arg(long = "schema-version", value_name = "VERSION")]
        version: Option<String>,
        #[command(flatten)]
        registry: RegistryArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Set what new versions must be compatible with
    #[command(after_help = "Example:\n  millstream schemas level FULL --subject navigation-value")]
    Level {
        /// NONE, BACKWARD, FORWARD, FULL, or one of these with _TRANSITIVE
        level: String,
        /// Only for this subject
        #[arg(long)]
        subject: Option<String>,
        #[command(flatten)]
        registry: RegistryArgs,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Debug, Args)]
struct SchemaArgs {
    /// The file with the schema
    file: PathBuf,
    /// What kind of schema it is
    #[arg(long, value_enum, default_value = "avro")]
    kind: Kind,
    /// A schema that this one refers to; give it again for more
    #[arg(long = "reference", value_name = "NAME=SUBJECT:VERSION", value_parser = words::reference)]
    references: Vec<(String, String, i64)>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Avro,
    Json,
    Protobuf,
}

impl SchemasArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        match self.command {
            SchemasCommand::List { registry, json } => {
                list(global, &Request::Schemas { elsewhere: registry.place()? }, json)
            }
            SchemasCommand::Show { subject, version, id, registry, json } => {
                let elsewhere = registry.place()?;
                show(global, &Request::ShowSchema { subject, version, id, elsewhere }, json)
            }
            SchemasCommand::Register { subject, schema, registry, json } => {
                let file = schema.file.clone();
                let schema = schema.read()?;
                let request =
                    Request::RegisterSchema { subject, schema, elsewhere: registry.place()? };
                let made: Schema = of_file(&file, session::end(global, &request))?;
                if json.json {
                    return output::json(&made);
                }
                output::line(format!(
                    "{} version {} has the id {}",
                    made.subject, made.version, made.id
                ))
            }
            SchemasCommand::Compatible { subject, schema, version, registry, json } => {
                let file = schema.file.clone();
                let schema = schema.read()?;
                let request = Request::CompatibleSchema {
                    subject,
                    version,
                    schema,
                    elsewhere: registry.place()?,
                };
                compatible(of_file(&file, session::end(global, &request))?, json)
            }
            SchemasCommand::Level { level, subject, registry, json } => {
                let elsewhere = registry.place()?;
                let (of, to) = (subject.clone(), level.clone());
                let request = Request::SetLevel { subject: of, level: to, elsewhere };
                let _: serde_json::Value = session::end(global, &request)?;
                let level = level.to_ascii_uppercase();
                if json.json {
                    return output::json(&serde_json::json!({"subject": subject, "level": level}));
                }
                let whose = subject.unwrap_or_else(|| "every subject without its own".into());
                output::line(format!("the level of {whose} is {level}"))
            }
        }
    }
}

fn list(global: &Global, request: &Request, json: JsonArg) -> Result<()> {
    let subjects: Vec<Subject> = session::rows(global, request)?;
    if json.json {
        return output::json(&subjects);
    }
    let mut table = Table::new(
        &["SUBJECT", "KIND", "VERSIONS", ">NEWEST ID", "LEVEL"],
        "There are no schemas yet: `millstream schemas register SUBJECT FILE` adds one.",
    );
    for subject in subjects {
        let versions: Vec<String> = subject.versions.iter().map(u32::to_string).collect();
        table.row([
            subject.subject,
            subject.kind,
            versions.join(", "),
            subject.id.to_string(),
            subject.level,
        ]);
    }
    table.print()
}

fn show(global: &Global, request: &Request, json: JsonArg) -> Result<()> {
    let schemas: Vec<Schema> = session::rows(global, request)?;
    if json.json {
        return output::json(&schemas);
    }
    for schema in &schemas {
        output::line(format!(
            "{} version {}, id {}, {}",
            schema.subject, schema.version, schema.id, schema.kind
        ))?;
    }
    let Some(first) = schemas.first() else {
        return Err(Mistake::new("no subject has a schema of this id"));
    };
    let pretty = serde_json::from_str::<serde_json::Value>(&first.schema)
        .and_then(|value| serde_json::to_string_pretty(&value));
    output::line(pretty.unwrap_or_else(|_| first.schema.clone()))
}

/// Names the file whose schema was refused.
fn of_file<T>(file: &Path, answer: Result<T>) -> Result<T> {
    answer.map_err(|error| match error.downcast::<millstream_console::Error>() {
        Ok(error) if error.code == Code::Mistake => {
            Mistake::new(format!("{}: {}", file.display(), error.message))
        }
        Ok(error) => error.into(),
        Err(error) => error,
    })
}

fn compatible(answer: Compatibility, json: JsonArg) -> Result<()> {
    if json.json {
        output::json(&answer)?;
    } else if answer.compatible {
        output::line("compatible")?;
    } else {
        output::line("not compatible:")?;
        for message in &answer.messages {
            output::line(format!("  {message}"))?;
        }
    }
    if answer.compatible { Ok(()) } else { Err(Said(1).into()) }
}

impl SchemaArgs {
    fn read(self) -> Result<SchemaText> {
        let kind = match self.kind {
            Kind::Avro => "avro",
            Kind::Json => "json",
            Kind::Protobuf => "protobuf",
        };
        Ok(SchemaText {
            text: read_text(&self.file)?,
            kind: kind.into(),
            references: self.references,
        })
    }
}
