mod kcat;
mod server;

/// Serves for a while on a port of one's choice, to try clients by hand.
#[test]
#[ignore = "for trying clients by hand: MILLSTREAM_KAFKA_LISTEN=127.0.0.1:9092"]
fn by_hand() {
    let listen = std::env::var("MILLSTREAM_KAFKA_LISTEN").unwrap();
    let _server = server::Server::start_with(|options| options.listen = listen.parse().unwrap());
    std::thread::sleep(std::time::Duration::from_secs(600));
}
