//! Mutual TLS: who a gateway is, and who it takes its peers for.
//!
//! Owns this gateway's certificate, key and authority. Promises TLS 1.2 or newer, that every peer's chain ends at the
//! authority, and that a peer's name is the one in its certificate (`spiffe://setgate/<space>/<unit>`); host names say
//! nothing. Never shows a key.

use super::LinkError;
use crate::link::{Here, RefusalReason};
use crate::model::{SpaceId, UnitId};
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Both versions that may be spoken, the newer first.
static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Where certificate, key and authority lie, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that sign gateways' certificates, one or (while one is replaced) several.
    pub ca: PathBuf,
    /// This unit's certificate, and what stands between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How links are secured.
#[derive(Debug, Clone)]
pub enum LinkSecurity {
    /// Not at all: plain HTTP/2, and peers are who they say they are. Only by `insecure: true`.
    Insecure,
    /// Both sides show a certificate of the same authority.
    Mutual(Arc<TlsIdentity>),
}

/// This gateway's certificate and what it believes of others'.
#[derive(Debug)]
pub struct TlsIdentity {
    files: TlsFiles,
    here: Here,
    loaded: ArcSwap<Loaded>,
}

struct Loaded {
    /// The files as they were, to see a change.
    texts: [Vec<u8>; 3],
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    server: Arc<ServerConfig>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Reads the files and checks that they fit together, are valid now, and name this unit.
    pub fn load(files: TlsFiles, here: Here) -> Result<Self, LinkError> {
        let loaded = Loaded::read(&files, &here)?;
        Ok(Self {
            files,
            here,
            loaded: ArcSwap::from_pointee(loaded),
        })
    }

    /// Reads the files again; true when they differ. New connections use what was read; after an error, and on
    /// connections that are up, the old ones stay.
    pub fn reload(&self) -> Result<bool, LinkError> {
        let loaded = Loaded::read(&self.files, &self.here)?;
        let changed = loaded.texts != self.loaded.load().texts;
        if changed {
            self.loaded.store(Arc::new(loaded));
        }
        Ok(changed)
    }

    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.load().server)
    }

    /// For connections to one unit.
    pub(super) fn client_config(&self, unit: &UnitId) -> Result<ClientConfig, LinkError> {
        let loaded = self.loaded.load();
        let provider = Arc::new(ring::default_provider());
        let verifier = PeerVerifier {
            roots: Arc::clone(&loaded.roots),
            provider: Arc::clone(&provider),
            space: self.here.space.clone(),
            unit: unit.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .and_then(|builder| {
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
                    .with_client_auth_cert(loaded.chain.clone(), loaded.key.clone_key())
            })
            .map_err(|error| fault("key", &self.files.key, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        Ok(config)
    }
}

fn fault(field: &'static str, path: &Path, problem: impl Into<String>) -> LinkError {
    LinkError::Tls {
        field,
        path: path.to_owned(),
        problem: problem.into(),
    }
}

impl Loaded {
    fn read(files: &TlsFiles, here: &Here) -> Result<Self, LinkError> {
        let text = |field, path: &Path| {
            std::fs::read(path).map_err(|error| {
                fault(
                    field,
                    path,
                    format!("can't be read ({error}); see that the file is there and the gateway's user may read it"),
                )
            })
        };
        let texts = [
            text("ca", &files.ca)?,
            text("cert", &files.cert)?,
            text("key", &files.key)?,
        ];
        let roots = read_roots(&files.ca, &texts[0])?;
        let chain = read_certificates("cert", &files.cert, &texts[1])?;
        let key = PrivateKeyDer::from_pem_slice(&texts[2]).map_err(|_| {
            fault(
                "key",
                &files.key,
                "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, unencrypted)",
            )
        })?;
        check_own(&files.cert, &chain, &roots, here)?;
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| fault("ca", &files.ca, error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain.clone(), key.clone_key())
            })
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => fault(
                    "key",
                    &files.key,
                    format!(
                        "isn't the key of {}; give both from one issue",
                        files.cert.display()
                    ),
                ),
                other => fault("key", &files.key, format!("can't be used: {other}")),
            })?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            texts,
            roots,
            chain,
            key,
            server: Arc::new(server),
        })
    }
}

fn read_certificates(
    field: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| fault(field, path, format!("isn't PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(fault(field, path, "holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn read_roots(path: &Path, text: &[u8]) -> Result<Arc<RootCertStore>, LinkError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("ca", path, text)? {
        roots.add(certificate).map_err(|error| {
            fault(
                "ca",
                path,
                format!("holds a certificate that can't be an authority: {error}"),
            )
        })?;
    }
    Ok(Arc::new(roots))
}

/// What the peers will check of our own certificate, so that a fault shows here and not as their refusal.
fn check_own(
    path: &Path,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    here: &Here,
) -> Result<(), LinkError> {
    let Some((own, between)) = chain.split_first() else {
        return Err(fault("cert", path, "holds no certificate in PEM"));
    };
    verify_chain(
        own,
        between,
        roots,
        &ring::default_provider(),
        UnixTime::now(),
    )
    .map_err(|error| {
        let problem = match certificate_problem(&error) {
            Some(problem) => {
                format!("{problem}; issue a new one with the authority in link.tls.ca")
            }
            None => format!("can't be used for links: {error}"),
        };
        fault("cert", path, problem)
    })?;
    let expected = spiffe(&here.space, &here.unit);
    match identity(own) {
        Ok(named) if named.space == here.space && named.unit == here.unit => Ok(()),
        Ok(named) => Err(fault(
            "cert",
            path,
            format!("is for {named}, this gateway is {expected}; give this unit's certificate"),
        )),
        Err(problem) => Err(fault(
            "cert",
            path,
            format!("{problem}; issue one with the URI {expected} among its alternative names"),
        )),
    }
}

fn verify_chain(
    own: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(own)?;
    verify_server_cert_signed_by_trust_anchor(
        &parsed,
        roots,
        between,
        now,
        provider.signature_verification_algorithms.all,
    )
}

/// The name of a unit in certificates.
pub fn spiffe(space: &SpaceId, unit: &UnitId) -> String {
    format!("spiffe://setgate/{space}/{unit}")
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) space: SpaceId,
    pub(super) unit: UnitId,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&spiffe(&self.space, &self.unit))
    }
}

/// Whom a certificate is for, which has been verified. The error is the end of a sentence about the certificate.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Result<Named, String> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("can't be read: {error}"))?;
    let alternatives = parsed
        .subject_alternative_name()
        .map_err(|error| format!("has unreadable alternative names: {error}"))?;
    let mut found = None;
    for name in alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        let GeneralName::URI(uri) = name else {
            continue;
        };
        let Some(path) = uri.strip_prefix("spiffe://setgate/") else {
            continue;
        };
        let named = path
            .split_once('/')
            .and_then(|(space, unit)| {
                Some(Named {
                    space: SpaceId::parse(space).ok()?,
                    unit: UnitId::parse(unit).ok()?,
                })
            })
            .ok_or_else(|| {
                format!("has the name {uri:?}, which isn't spiffe://setgate/<space>/<unit>")
            })?;
        if found.replace(named).is_some() {
            return Err("names several units".to_owned());
        }
    }
    found.ok_or_else(|| "names no unit".to_owned())
}

/// What is wrong with a certificate, as the end of a sentence about it.
fn certificate_problem(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Some("has expired"),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Some("isn't valid yet (or this clock is wrong)"),
        // A bad signature is another authority under the same name.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Some("isn't signed by the authority in link.tls.ca"),
        _ => None,
    }
}

/// What a client says of a TLS greeting that failed, without the library's frame around our own sentences.
pub(super) fn client_cause(error: &std::io::Error) -> String {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::General(sentence)) => sentence.clone(),
        Some(rustls::Error::AlertReceived(alert)) => format!(
            "the peer refuses the TLS greeting ({alert:?}): see its log, and link.tls on both sides"
        ),
        Some(rustls::Error::InvalidMessage(_)) => {
            "the peer doesn't speak TLS: see insecure and the address".to_owned()
        }
        Some(tls) => match certificate_problem(tls) {
            Some(problem) => format!("the peer's certificate {problem}"),
            None => error.to_string(),
        },
        None => error.to_string(),
    }
}

/// Why a TLS greeting failed, by what the library says.
pub(super) fn refusal_reason(error: &std::io::Error) -> RefusalReason {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::NoCertificatesPresented) => RefusalReason::NoCertificate,
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => RefusalReason::ExpiredCertificate,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                RefusalReason::ForeignCertificate
            }
            _ => RefusalReason::BadCertificate,
        },
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => {
            RefusalReason::NotTls
        }
        // The peer left, or told us by an alert that it is the one who refuses.
        Some(_) | None => RefusalReason::Garbage,
    }
}

/// The client's side: the chain by the authority, the name by the certificate.
#[derive(Debug)]
struct PeerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    space: SpaceId,
    unit: UnitId,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_chain(end_entity, intermediates, &self.roots, &self.provider, now)?;
        let wrong = |problem| rustls::Error::General(format!("the peer's certificate {problem}"));
        let named = identity(end_entity).map_err(wrong)?;
        if named.space == self.space && named.unit == self.unit {
            return Ok(ServerCertVerified::assertion());
        }
        Err(wrong(format!(
            "is for {named}, not for {}: see its link.advertise and this gateway's link.via",
            spiffe(&self.space, &self.unit)
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
