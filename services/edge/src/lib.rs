//! All services of the bank in one binary. They share most of their code, so a node stores one file
//! and keeps it in the page cache once. The name of the program (a link) selects the service, or
//! else its first argument.

#![warn(unused_crate_dependencies)]

use service::{EXIT_USAGE, Service};
use std::env;
use std::path::Path;
use std::process::ExitCode;

/// All services, in the order in which they start.
pub const SERVICES: [&Service; 6] = [
    &synchronizer::SERVICE,
    &heartbeat::SERVICE,
    &command_generator::SERVICE,
    &command_handler::SERVICE,
    &graphql_endpoint::SERVICE,
    &frontend::SERVICE,
];

/// Runs the service that the arguments of this process select, with the remaining arguments.
///
/// Exit code: that of the service, or 2 if no service is selected.
pub fn main() -> ExitCode {
    let args: Vec<String> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    match choose(&args) {
        Choice::Run(service, args) => service::run(service, args),
        Choice::Healthcheck => service::healthcheck("edge"),
        Choice::Text(text) => service::answer("edge", &text),
        Choice::Refused(why) => {
            service::log::write_last(&format!("edge: {why}"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The action that the arguments select.
enum Choice<'a> {
    Run(&'static Service, &'a [String]),
    /// Checks the service on `HEALTH_PORT`.
    Healthcheck,
    Text(String),
    /// The arguments are invalid, for this reason.
    Refused(String),
}

fn choose(args: &[String]) -> Choice<'_> {
    let (program, args) =
        args.split_first().map_or(("edge", args), |(program, rest)| (program, rest));
    let called = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(service) = find(called) {
        return Choice::Run(service, args);
    }
    let Some((first, rest)) = args.split_first() else {
        return Choice::Refused(format!(
            "no service selected: expected one of {}",
            names().join(", ")
        ));
    };
    match first.as_str() {
        "--help" | "-h" => Choice::Text(help()),
        "--version" | "-V" => Choice::Text(format!("edge {}\n", env!("CARGO_PKG_VERSION"))),
        "healthcheck" => Choice::Healthcheck,
        name => match find(name) {
            Some(service) => Choice::Run(service, rest),
            None => Choice::Refused(format!(
                "unknown service {name:?}: expected one of {}",
                names().join(", ")
            )),
        },
    }
}

fn find(name: &str) -> Option<&'static Service> {
    SERVICES.into_iter().find(|service| service.name == name)
}

fn names() -> [&'static str; SERVICES.len()] {
    SERVICES.map(|service| service.name)
}

fn help() -> String {
    let mut text = "All services of the bank in one binary.\n\n\
        Usage: edge SERVICE [ARGUMENT...]\n       \
        edge [--help | --version | healthcheck]\n\n\
        A link to this binary with the name of a service runs that service.\n\n"
        .to_owned();
    for Service { name, about, .. } in SERVICES {
        text += &format!("  {name}\n{}\n", service::wrap(about, "      "));
    }
    text + "\nedge SERVICE --help lists the environment variables of a service.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        match choose(&args) {
            Choice::Run(service, rest) => format!("{} {rest:?}", service.name),
            Choice::Healthcheck => "healthcheck".to_owned(),
            Choice::Text(text) => text,
            Choice::Refused(why) => format!("refused: {why}"),
        }
    }

    #[test]
    fn argument_selects_the_service() {
        let run = chosen(&["/service", "synchronizer", "--dry-run"]);
        assert_eq!(run, "synchronizer [\"--dry-run\"]");
    }

    #[test]
    fn link_name_selects_the_service() {
        assert_eq!(chosen(&["/usr/bin/heartbeat", "--help"]), "heartbeat [\"--help\"]");
    }

    #[test]
    fn help_and_errors_list_every_service() {
        for service in SERVICES {
            for args in [&["edge", "--help"][..], &["edge"], &["edge", "unknown"], &[]] {
                let text = chosen(args);
                assert!(text.contains(service.name), "{text}");
                assert_eq!(text.starts_with("refused: "), args.last() != Some(&"--help"));
            }
        }
    }

    #[test]
    fn healthcheck_needs_no_service() {
        assert_eq!(chosen(&["edge", "healthcheck"]), "healthcheck");
    }
}
