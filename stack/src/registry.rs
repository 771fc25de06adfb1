//! Apicurio Registry with the Confluent API and its data in a file.

use crate::error::{Context, Result, failed};
use crate::http;
use crate::settings::Settings;
use crate::stack::Stack;
use std::fs;
use std::path::PathBuf;

/// Creates the data folder.
pub fn prepare(stack: &Stack) -> Result<()> {
    let dir = stack.data_dir().join("registry");
    fs::create_dir_all(&dir).context(dir.display())
}

/// The command line.
pub fn command(stack: &Stack) -> Result<Vec<String>> {
    // Each commit is written to the file at once, so kill -9 loses no schema whose id was returned.
    let database = format!(
        "jdbc:h2:file:{}/registry/schemas;WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE",
        stack.data_dir().display()
    );
    let words = [
        "java".to_owned(),
        "-Xms64m".to_owned(),
        "-Xmx256m".to_owned(),
        "-XX:+UseSerialGC".to_owned(),
        "-XX:TieredStopAtLevel=1".to_owned(),
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager".to_owned(),
        format!("-Dquarkus.datasource.jdbc.url={database}"),
        format!("-Dregistry.datasource.url={database}"),
        "-Dquarkus.http.host=127.0.0.1".to_owned(),
        format!("-Dquarkus.http.port={}", stack.settings.registry_port),
        "-jar".to_owned(),
        jar(stack)?.display().to_string(),
    ];
    Ok(words.into())
}

fn jar(stack: &Stack) -> Result<PathBuf> {
    let dir = stack.servers_dir.join("registry");
    let files = fs::read_dir(&dir).context(dir.display())?;
    let found = files.filter_map(std::result::Result::ok).map(|file| file.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("apicurio-registry-app-") && name.ends_with("-runner.jar")
    });
    found.ok_or_else(|| {
        failed(format!("{} has no registry: delete {} and try again", dir.display(), dir.display()))
    })
}

/// True if the registry lists its subjects.
pub fn is_ready(settings: &Settings) -> bool {
    http::is_ok(settings.registry_port, "/apis/ccompat/v7/subjects")
}
