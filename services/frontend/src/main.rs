//! See the crate's library: one binary can hold all services.

fn main() -> std::process::ExitCode {
    service::main(&frontend::SERVICE)
}
