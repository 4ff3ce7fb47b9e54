//! Runs a command with servers to test against: those that answer already, and private ones for the rest,
//! which end with the command.
//!
//! ```text
//! mamos-testbed cargo nextest run
//! ```

use std::process::{Command, ExitCode};

use mamos_testbed::{NatsServer, PostgresServer, RabbitServer, RedisServer, Shared};

#[expect(clippy::print_stderr, reason = "standard output belongs to the command")]
fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: mamos-testbed COMMAND [ARGUMENT ...]");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    // Kept until the command has ended.
    let (mut postgres, mut redis, mut nats, mut rabbit) = (None, None, None, None);
    for shared in Shared::ALL {
        if shared.answers() {
            eprintln!("{}: the one at {}", shared.name(), shared.address());
            continue;
        }
        if !shared.is_installed() {
            eprintln!("{}: none answers at {}, and none is installed", shared.name(), shared.address());
            continue;
        }
        eprintln!("{}: a private one", shared.name());
        let url = match shared {
            Shared::Postgres => postgres.insert(PostgresServer::start()).url(),
            Shared::Redis => redis.insert(RedisServer::start()).url(),
            Shared::Nats => nats.insert(NatsServer::start()).url(),
            Shared::Rabbit => rabbit.insert(RabbitServer::start()).url(),
        };
        command.env(shared.variable(), url);
    }
    match command.status() {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("{} cannot be run: {error}", command.get_program().to_string_lossy());
            ExitCode::FAILURE
        }
    }
}
