//! See the crate's library.

fn main() -> std::process::ExitCode {
    edge::main()
}
