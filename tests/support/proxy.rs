//! A proxy between clients and a server: it keeps its address when the server is replaced, and cuts connections, also
//! in the middle of a reply.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The proxy. It ends with the runtime that started it.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy)]
struct State {
    to: SocketAddr,
    /// Connections made before this generation are cut.
    generation: u64,
}

impl Proxy {
    /// Starts a proxy in front of the server at this address, such as `http://127.0.0.1:3000`.
    pub async fn before(base: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State { to: address_of(base), generation: 0 }));
        let present = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, present.subscribe()));
            }
        });
        Self { address, state }
    }

    /// Address for clients.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Directs new connections to another server.
    pub fn redirect(&self, base: &str) {
        self.state.send_modify(|state| state.to = address_of(base));
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }
}

fn address_of(base: &str) -> SocketAddr {
    base.trim_start_matches("http://").parse().unwrap()
}

async fn connection(mut client: TcpStream, mut state: watch::Receiver<State>) {
    let State { to, generation } = *state.borrow_and_update();
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = state.wait_for(|state| state.generation != generation) => {}
    }
}
