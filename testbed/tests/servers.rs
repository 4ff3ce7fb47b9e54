//! Private servers start, end as a test wants it, and come back with what they had.

use mamos_testbed::{NatsServer, PostgresServer, RabbitServer, RedisServer};

#[test]
fn a_private_postgres_comes_back_with_what_it_committed() {
    let mut server = PostgresServer::start();
    server.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
    server.stop_immediately();
    server.resume();
    assert_eq!(server.sql("SELECT n FROM kept"), "7");
    server.stop_in_order();
    server.resume();
    assert_eq!(server.sql("SELECT n FROM kept"), "7");
}

#[test]
fn a_private_redis_comes_back_with_what_it_answered() {
    let mut server = RedisServer::start();
    assert_eq!(server.command(&["SET", "kept", "7"]), "OK");
    server.kill();
    server.resume();
    assert_eq!(server.command(&["GET", "kept"]), "7");
}

#[test]
fn a_private_nats_starts_and_ends() {
    let mut server = NatsServer::start();
    server.stop_in_order();
    assert!(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err());
    server.resume();
    server.kill();
    server.resume();
}

#[test]
fn a_private_rabbitmq_comes_back_with_what_it_had() {
    let mut server = RabbitServer::start();
    server.control(&["add_vhost", "kept"]);
    server.stop_in_order();
    assert!(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err());
    server.resume();
    assert!(server.control(&["list_vhosts"]).contains("kept"));
    server.kill();
    server.resume();
}
