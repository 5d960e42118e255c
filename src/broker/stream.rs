//! A socket to a broker, in the clear or through TLS.
//!
//! Owns how one is opened: all addresses of a host, each for a bounded time. No TCP keep-alive: AMQP's heartbeats notice
//! a dead peer sooner. Knows nothing of AMQP.

use super::BrokerError;
use super::error::io_cause;
use super::settings::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For a host's name, for each of its addresses, and for TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// See the file's head.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, with TLS where it is given. The error is a sentence.
    pub(super) async fn connect(
        host: &str,
        port: u16,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        // An IPv6 address stands in brackets in a URI.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let socket = connect(host, port).await?;
        // Frames are put together before they are written; the kernel need not wait for more.
        let _ = socket.set_nodelay(true);
        let Some(config) = tls else {
            return Ok(Self::Plain(socket));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is no name that a certificate could be for"))?;
        let handshake = TlsConnector::from(Arc::clone(config)).connect(name, socket);
        match timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(Self::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(format!("TLS: {}", io_cause(&error))),
            Err(_) => Err(format!("TLS: {}", silent())),
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = timeout(CONNECT_TIMEOUT, lookup_host((host, port)))
        .await
        .map_err(|_| format!("looking up {host:?}: {}", silent()))?
        .map_err(|error| format!("looking up {host:?}: {error}"))?;
    let mut causes = Vec::new();
    for address in addresses {
        let cause = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => io_cause(&error),
            Err(_) => silent(),
        };
        causes.push((address, cause));
    }
    Err(match causes.as_slice() {
        [] => format!("{host:?} has no address"),
        [(_, cause)] => cause.clone(),
        several => {
            let each = several
                .iter()
                .map(|(address, cause)| format!("{}: {cause}", address.ip()));
            each.collect::<Vec<_>>().join(", ")
        }
    })
}

fn silent() -> String {
    format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())
}

/// What `amqps` needs: the configured authorities, else the platform's, and our certificate where there is one.
pub(super) fn tls_config(tls: Option<&Tls>) -> Result<Arc<ClientConfig>, BrokerError> {
    let fault = |field: &str, why: String| BrokerError::Tls {
        path: format!("broker.tls.{field}"),
        why,
    };
    let mut roots = RootCertStore::empty();
    if let Some(pem) = tls.and_then(|tls| tls.ca.as_ref()) {
        for certificate in certificates(pem).map_err(|why| fault("ca", why))? {
            roots
                .add(certificate)
                .map_err(|error| fault("ca", error.to_string()))?;
        }
    } else {
        // Some of a platform's certificates may be of no use; who relies on those sees the handshake fail.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault("ca", error.to_string()))?
        .with_root_certificates(roots);
    let config = match tls.and_then(|tls| tls.identity.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((pem, key)) => {
            let chain = certificates(pem).map_err(|why| fault("cert", why))?;
            let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                .map_err(|_| fault("key", "it holds no private key in PEM".to_owned()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| fault("key", error.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it isn't PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
