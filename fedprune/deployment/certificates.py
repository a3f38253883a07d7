"""Keys and certificates of a fleet: its own authority, the server's certificate, a key pair for each device."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = timedelta(days=3650)
_EARLIER = timedelta(days=2)  # devices without a battery for their clock start somewhat in the past


class Pair(NamedTuple):
    """A private key and what is public of it, both as text."""

    private: bytes
    public: bytes


def authority(name: str) -> Pair:
    """A new certificate authority: (PEM key, PEM certificate), valid for ten years, for this fleet alone."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedprune fleet {name}"[:64])])
    built = (
        _certificate(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(_pem(key), built.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))


def server(issuer: Pair, hosts: Sequence[str]) -> Pair:
    """A server's PEM key and certificate for these names and addresses, signed by the authority ``issuer``.

    ValueError where the authority's key is not its certificate's, or where its time is over.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    ca = x509.load_pem_x509_certificate(issuer.public)
    ca_key = serialization.load_pem_private_key(issuer.private, None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or ca_key.public_key() != ca.public_key():
        raise ValueError("the key is not that of the certificate")
    if datetime.now(UTC) > ca.not_valid_after_utc:
        raise ValueError(f"the authority's time was over on {ca.not_valid_after_utc:%Y-%m-%d}")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedprune server")])
    built = (
        _certificate(subject, ca.subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    return Pair(_pem(key), built.sign(ca_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))


def until(certificate: bytes) -> datetime:
    """When the time of a PEM certificate is over, in UTC."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def device() -> Pair:
    """A device's key pair in OpenSSH's format, as ``ssh-keygen -t ecdsa -b 384`` makes it, without a passphrase."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Pair(private, public + b"\n")


def _certificate(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + _VALID)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
