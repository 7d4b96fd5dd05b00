//! The owner's side of the control socket.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Address, Hands,
    events::NotAccepted,
    protocol::{Command, Line, MAX_REQUEST_BYTES, Request, VERSION, read_line, write_line},
    tapping,
};

/// Connections that are served at once; more wait.
const MAX_CONNECTIONS: usize = 16;

/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The wait after a connection that couldn't be accepted.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// A control socket that is served; it is gone once this is dropped.
pub struct Control {
    address: Address,
    _task: AbortOnDropHandle<()>,
}

impl Control {
    /// Serves the socket in `dir`. The caller owns the folder, so a socket that is there already is a dead owner's.
    pub fn serve(dir: &Path, hands: Hands) -> io::Result<Self> {
        let address = Address::of(dir)?;
        match fs::remove_file(&address.path) {
            Ok(()) => tracing::info!("The control socket of an owner that was killed is replaced."),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(&address.path)?;
        // Until here another user may have got in, if the umask let them: so each peer's user is looked at, too.
        fs::set_permissions(&address.path, fs::Permissions::from_mode(0o600))?;
        let owner = fs::metadata(&address.path)?.uid();
        let task = tokio::spawn(accept(listener, owner, hands));
        Ok(Self { address, _task: AbortOnDropHandle::new(task) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.address.path) {
            tracing::debug!(%error, "The control socket was gone already.");
        }
    }
}

async fn accept(listener: UnixListener, owner: u32, hands: Hands) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let hands = hands.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, owner, &hands).await {
                        tracing::debug!(%error, "A control connection ended early.");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                NotAccepted { error: &error }.emit();
                tokio::time::sleep(ACCEPT_WAIT).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, owner: u32, hands: &Hands) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let line = match take_request(peer, owner, &mut from).await {
        Ok(Some(Request { command: Command::Tap(wanted), .. })) => {
            tapping::show(hands, &wanted, &mut from, &mut to).await?
        }
        Ok(Some(request)) => match hands.carry_out(&request.command).await {
            Ok(value) => Line::Done(value),
            Err(error) => Line::Failed(format!("{error:#}")),
        },
        Ok(None) => return Ok(()),
        Err(refused) => Line::Failed(refused),
    };
    let outcome = if matches!(line, Line::Failed(_)) { "failed" } else { "done" };
    metrics::counter!("penstock_control_requests_total", "outcome" => outcome).increment(1);
    write_line(&mut to, &line).await
}

/// The request of a connection, if it may make one.
async fn take_request(
    peer: u32,
    owner: u32,
    from: &mut BufReader<tokio::net::unix::OwnedReadHalf>,
) -> Result<Option<Request>, String> {
    if peer != owner && peer != 0 {
        return Err(format!("user {peer} may not command a service of user {owner}"));
    }
    let read = timeout(REQUEST_TIMEOUT, read_line::<serde_json::Value>(from, MAX_REQUEST_BYTES)).await;
    let read = read.map_err(|_| format!("no request came within {} s", REQUEST_TIMEOUT.as_secs()))?;
    let Some(json) = read.map_err(|error| error.to_string())? else { return Ok(None) };
    // The version first: another release's commands need not be understood to be refused well.
    let version = json.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        return Err(format!(
            "the service speaks version {VERSION} of the control protocol, and you {}: use the same release of penstock",
            version.map_or("none".to_owned(), |version| version.to_string())
        ));
    }
    let request: Request = serde_json::from_value(json).map_err(|error| format!("no such request: {error}"))?;
    tracing::info!(command = ?request.command, "Command from the control socket.");
    Ok(Some(request))
}
