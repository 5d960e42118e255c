//! Who may come in, and that who may not disturbs nobody.

use crate::harness::{
    Authority, Client, Dates, Port, accept_all, event, hello, here, send_all, within, write,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use setgate::link::{Hello, RefusalReason};
use setgate::model::Lineage;
use setgate::wire::{
    LinkError, LinkSecurity, LinkServer, RefusedCounts, ServerSettings, StreamEvent, TlsIdentity,
};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// Takes any server: these clients want to be judged, not to judge.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Connects with what is given, says the HTTP/2 preface, and waits for what comes; true when something came.
async fn knock(
    address: SocketAddr,
    version: &'static SupportedProtocolVersion,
    certificate: Option<(String, String)>,
) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = connector
        .connect(ServerName::try_from("any").unwrap(), stream)
        .await
    else {
        return false;
    };
    // An empty SETTINGS frame follows the preface.
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let _ = stream.write_all(greeting).await;
    let _ = stream.flush().await;
    let mut buffer = [0; 64];
    matches!(within("an answer", stream.read(&mut buffer)).await, Ok(read) if read > 0)
}

async fn counted(counts: &RefusedCounts, reason: RefusalReason, at_least: u64) {
    within(&format!("{reason} being counted"), async {
        while counts.of(reason) < at_least {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_counted_while_a_link_goes_on() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let mut port = Port::open("bj-1", authority.security("bj-1")).await;
    let client = Client::start("sh-1", "bj-1", port.address, authority.security("sh-1"));
    client.up().await;
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let receiver = TaskTracker::new().spawn(accept_all(port.stream().await));
    let traffic = TaskTracker::new().spawn(async move {
        send_all(&mut pipe, 5_000, 300).await;
    });

    let name = "spiffe://setgate/trade/sh-1";
    let counts = Arc::clone(&port.refused);
    let address = port.address;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let knock = |certificate| knock(address, version, certificate);
        assert!(
            knock(Some(authority.issue(name, Dates::Current))).await,
            "{version:?}"
        );
        assert!(!knock(None).await);
        assert!(!knock(Some(foreign.issue(name, Dates::Current))).await);
        assert!(!knock(Some(authority.issue(name, Dates::Past))).await);
        assert!(
            !knock(Some(
                authority.issue("spiffe://elsewhere/x", Dates::Current)
            ))
            .await
        );
        let unknown = "spiffe://setgate/trade/gz-1";
        assert!(!knock(Some(authority.issue(unknown, Dates::Current))).await);
        let other_space = "spiffe://setgate/other/sh-1";
        assert!(!knock(Some(authority.issue(other_space, Dates::Current))).await);
    }
    for reason in [
        RefusalReason::NoCertificate,
        RefusalReason::ForeignCertificate,
        RefusalReason::ExpiredCertificate,
        RefusalReason::BadCertificate,
        RefusalReason::UnknownUnit,
        RefusalReason::WrongSpace,
    ] {
        counted(&counts, reason, 2).await;
    }
    within("the traffic's end", traffic).await.unwrap();
    assert_eq!(
        within("the receiver's end", receiver).await.unwrap().len(),
        5_000
    );
}

/// A ClientHello of TLS 1.1 with two cipher suites of its time and no extensions.
fn tls_1_1_hello() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x00, 0x2f, 0x00, 0x35, 1, 0]);
    let mut handshake = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    handshake.extend(body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(handshake.len()).unwrap()];
    record.extend(handshake);
    record
}

#[tokio::test]
async fn garbage_and_old_tls_are_refused_and_counted() {
    let authority = Authority::new();
    let port = Port::open("bj-1", authority.security("bj-1")).await;
    let mut said = 0;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 300],
        tls_1_1_hello(),
    ] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        // An alert or a reset, then the end.
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
        said += 1;
        counted(&port.refused, RefusalReason::NotTls, said).await;
    }

    let port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = within("the end", stream.read_to_end(&mut Vec::new())).await;
    counted(&port.refused, RefusalReason::Garbage, 1).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;
}

#[tokio::test]
async fn a_connection_beyond_the_places_is_refused_and_the_others_stay() {
    let port = Port::open_with("bj-1", LinkSecurity::Insecure, 2).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    assert_eq!(
        within("the end", stream.read(&mut [0; 8]))
            .await
            .unwrap_or(0),
        0
    );
    counted(&port.refused, RefusalReason::TooManyConnections, 1).await;
    assert!(client.link.status().borrow().state.is_up());
}

async fn refusal(client: &Client, hello: Hello) -> RefusalReason {
    let mut pipe = client.open(hello).await;
    match event(&mut pipe).await {
        Some(StreamEvent::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_says_what_its_certificate_does_not_is_refused() {
    let authority = Authority::new();
    let mut port = Port::open("bj-1", authority.security("bj-1")).await;
    let client = Client::start("sh-2", "bj-1", port.address, authority.security("sh-2"));
    client.up().await;
    assert_eq!(
        refusal(&client, hello("sh-1", "bj-1")).await,
        RefusalReason::WrongUnit
    );
    assert_eq!(
        refusal(&client, hello("sh-2", "sh-1")).await,
        RefusalReason::WrongTarget
    );
    let mut other = hello("sh-2", "bj-1");
    other.lineage = Lineage("zero".into());
    assert_eq!(refusal(&client, other).await, RefusalReason::Lineage);
    let mut other = hello("sh-2", "bj-1");
    other.protocol = 99;
    assert_eq!(refusal(&client, other).await, RefusalReason::Protocol);
    for reason in [
        RefusalReason::WrongUnit,
        RefusalReason::Lineage,
        RefusalReason::Protocol,
    ] {
        assert_eq!(port.refused.of(reason), 1);
    }
    let mut pipe = client.open(hello("sh-2", "bj-1")).await;
    let receiver = TaskTracker::new().spawn(accept_all(port.stream().await));
    send_all(&mut pipe, 10, 10).await;
    drop(pipe);
    within("the end", receiver).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_another_unit_is_not_sent_anything() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let port = Port::open("bj-1", authority.security("bj-1")).await;
    let client = Client::start("sh-1", "sh-2", port.address, authority.security("sh-1"));
    client
        .down_because("is for spiffe://setgate/trade/bj-1")
        .await;
    let client = Client::start("sh-1", "bj-1", port.address, foreign.security("sh-1"));
    client
        .down_because("certificate isn't signed by the authority")
        .await;
    let port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let client = Client::start("sh-1", "sh-2", port.address, LinkSecurity::Insecure);
    client.down_because("unit bj-1 answers there").await;
}

#[tokio::test]
async fn faults_of_certificate_files_name_the_file_and_the_mend() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let good = authority.files("trade", "sh-1", Dates::Current);
    let fault = |change: &dyn Fn(&mut setgate::wire::TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        TlsIdentity::load(files, here("sh-1"))
            .unwrap_err()
            .to_string()
    };
    let missing = authority.path("missing.pem");
    let text = fault(&|files| files.cert.clone_from(&missing));
    assert!(
        text.contains("link.tls.cert") && text.contains("missing.pem"),
        "{text}"
    );
    let other = authority.files("trade", "sh-2", Dates::Current);
    let text = fault(&|files| files.key.clone_from(&other.key));
    assert!(text.contains("sh-2.key: isn't the key of"), "{text}");
    let text = fault(&|files| (files.cert, files.key) = (other.cert.clone(), other.key.clone()));
    assert!(
        text.contains("this gateway is spiffe://setgate/trade/sh-1"),
        "{text}"
    );
    let past = authority.files("trade", "bj-1", Dates::Past);
    let text = fault(&|files| (files.cert, files.key) = (past.cert.clone(), past.key.clone()));
    assert!(text.contains("has expired"), "{text}");
    let text = fault(&|files| files.ca = foreign.path("ca.pem"));
    assert!(
        text.contains("isn't signed by the authority in link.tls.ca"),
        "{text}"
    );
    let text = fault(&|files| files.key.clone_from(&good.cert));
    assert!(text.contains("no private key"), "{text}");
    let text = fault(&|files| files.ca.clone_from(&good.key));
    assert!(
        text.contains("link.tls.ca") && !text.contains("PRIVATE"),
        "{text}"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_without_a_restart() {
    let authority = Authority::new();
    let files = authority.files("trade", "sh-1", Dates::Current);
    let identity = TlsIdentity::load(files.clone(), here("sh-1")).unwrap();
    assert!(!identity.reload().unwrap());
    let (cert, key) = authority.issue("spiffe://setgate/trade/sh-1", Dates::Current);
    write(&files.cert, &cert);
    assert!(
        identity.reload().is_err(),
        "a certificate without its key isn't taken"
    );
    write(&files.key, &key);
    assert!(identity.reload().unwrap());
}

#[tokio::test]
async fn a_busy_port_is_named_with_the_mend() {
    let port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let settings = ServerSettings {
        here: here("bj-1"),
        security: LinkSecurity::Insecure,
        message_max: 1,
        bytes_max: 1,
        standing: crate::harness::standing(),
        connections_max: 1,
        granter: Arc::new(parking_lot::Mutex::new(setgate::link::Granter::new(
            std::time::Duration::ZERO,
        ))),
    };
    let error = LinkServer::bind(&port.address.to_string(), settings)
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::Bind { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&port.address.to_string()) && text.contains("link.listen"),
        "{text}"
    );
}
