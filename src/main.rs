//! Runs the command line ([`lapo::cli::run`]) and returns its exit code.

fn main() -> std::process::ExitCode {
    lapo::cli::run()
}
