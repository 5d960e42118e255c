//! A throw-away certificate authority for a lab's links.
//!
//! Owns one CA and signs unit certificates with the SAN URI `spiffe://setgate/<space>/<unit>`. Promises nothing beyond
//! a lab: keys lie unencrypted beside the certificates.

use super::LabError;
use super::lab_file::write_private;
use crate::model::{SpaceId, UnitId};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::path::{Path, PathBuf};

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its key, in PEM.
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
}

/// How long a certificate is to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From some years ago until some years from now.
    Good,
    /// Over since years.
    Expired,
}

impl Authority {
    /// A fresh one. Two of them don't trust each other.
    pub fn new(name: &str) -> Result<Self, LabError> {
        let describe = |source| LabError::Certificate {
            of: name.to_owned(),
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(describe)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(describe)?;
        Ok(Self { issuer })
    }

    /// Its own certificate, which peers trust.
    pub fn cert_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a unit's certificate.
    pub fn issue(
        &self,
        space: &SpaceId,
        unit: &UnitId,
        validity: Validity,
    ) -> Result<Identity, LabError> {
        self.issue_uri(&format!("spiffe://setgate/{space}/{unit}"), validity)
    }

    /// Signs a certificate with any URI as its name, for tests of what is refused.
    pub fn issue_uri(&self, uri: &str, validity: Validity) -> Result<Identity, LabError> {
        let parsed = uri.try_into().map_err(|source| LabError::Certificate {
            of: uri.to_owned(),
            source,
        })?;
        self.sign(uri, SanType::URI(parsed), validity)
    }

    /// Signs a server's certificate, by the name of its host.
    pub fn issue_host(&self, host: &str) -> Result<Identity, LabError> {
        let parsed = host.try_into().map_err(|source| LabError::Certificate {
            of: host.to_owned(),
            source,
        })?;
        self.sign(host, SanType::DnsName(parsed), Validity::Good)
    }

    fn sign(&self, of: &str, name: SanType, validity: Validity) -> Result<Identity, LabError> {
        let describe = |source| LabError::Certificate {
            of: of.to_owned(),
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, of);
        params.subject_alt_names = vec![name];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().map_err(describe)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(describe)?;
        Ok(Identity {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Writes `ca.pem` into a folder.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, LabError> {
        let path = dir.join("ca.pem");
        write_private(&path, self.cert_pem().as_bytes())?;
        Ok(path)
    }
}

impl Identity {
    /// Writes `<name>.pem` and `<name>.key` into a folder.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf), LabError> {
        let (cert, key) = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        write_private(&cert, self.cert_pem.as_bytes())?;
        write_private(&key, self.key_pem.as_bytes())?;
        Ok((cert, key))
    }
}
