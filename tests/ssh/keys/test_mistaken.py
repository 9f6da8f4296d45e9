"""
What people paste in the place of a private key or a certificate, made by the tools that make it: it is named, and no
part of it is shown.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.keys.certificates import BadCertificate, read_user_certificate
from relayd.ssh.keys.private import UnreadableKey, parse_private_key
from tests.support.ssh import tool

#: Parts of what people use that these tests cannot make: nothing in them is of any worth.
AGE = """# created: 2026-11-27T18:42:05Z
# public key: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ
"""
AGE_FILE = """-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBqZ0pXS3pIb2VxQk5CZz09
-----END AGE ENCRYPTED FILE-----
"""
PGP = """-----BEGIN PGP PRIVATE KEY BLOCK-----

lQOYBGcAAAABCADAbm90aGluZyBpbiBoZXJlIGlzIG9mIGFueSB3b3J0aCB0byBh
=abcd
-----END PGP PRIVATE KEY BLOCK-----
"""
VAULT = "$ANSIBLE_VAULT;1.1;AES256\n66386439653236336462626566653063336164663966303231363934653561363964363833313662\n"


class MistakenTestCase(SynchronousTestCase):
    """Where the tools can write."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="relayd-test-mistaken-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def ssh_keygen(self, name: str, *options: str) -> str:
        """The text of a private key; its public one is beside it."""
        path = self.folder / name
        tool("ssh-keygen", "-q", *(options or ("-t", "ed25519")), "-C", "me", "-N", "", "-f", str(path))
        return path.read_text()

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def named(self, texts: Mapping[str, str], words: str, passphrase: str | None = None) -> None:
        """Each of *texts* is refused with *words*, which show nothing of it."""
        for kind, text in texts.items():
            shown = str(self.assertRaises(UnreadableKey, parse_private_key, text, passphrase))
            self.assertIn(words, shown, kind)
            self.assertTrue(shown.isprintable(), kind)
            for word in re.findall(r"[A-Za-z0-9+/]{12,}", text):
                for at in range(len(word) - 11):
                    self.assertNotIn(word[at : at + 12], shown, kind)


class OtherThingsTests(MistakenTestCase):
    """Things that are no private key at all."""

    def test_public_keys(self) -> None:
        self.ssh_keygen("ed")
        self.ssh_keygen("rsa", "-t", "rsa", "-b", "2048")
        public = self.read("rsa.pub")
        self.named(
            {
                "of OpenSSH": public,
                "in authorized_keys": f'from="10.0.0.1",command="ls" {public}',
                "in known_hosts": "db1.internal,10.0.0.5 " + public.rpartition(" ")[0],
                "in base64": base64.b64encode(public.encode()).decode(),
            },
            "it is a public key (ssh-rsa)",
        )
        self.named({"ed25519": self.read("ed.pub")}, "it is a public key (ssh-ed25519)")
        rsa = str(self.folder / "rsa")
        self.named(
            {
                "PKCS#1": tool("ssh-keygen", "-e", "-m", "PEM", "-f", rsa),
                "PKCS#8": tool("ssh-keygen", "-e", "-m", "PKCS8", "-f", rsa),
                "RFC 4716": tool("ssh-keygen", "-e", "-f", rsa),
            },
            "it is a public key",
        )

    def test_what_only_looks_like_one(self) -> None:
        """The type is shown because the key itself says it."""
        secret = "ssh-hunter2secret AAAAB3NzaC1yc2EAAAADAQABAAABgQ"
        self.named({"another type": secret}, "it does not begin with")

    def test_certificates(self) -> None:
        self.ssh_keygen("ca")
        self.ssh_keygen("ed")
        tool("ssh-keygen", "-q", "-s", str(self.folder / "ca"), "-I", "me", "-n", "me", str(self.folder / "ed.pub"))
        words = "it is an SSH certificate (ssh-ed25519-cert-v01@openssh.com)"
        self.named({"of OpenSSH": self.read("ed-cert.pub")}, words)
        key, request = self.folder / "x.key", self.folder / "x.csr"
        new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x")
        self.named({"X.509": tool(*new, "-x509", "-keyout", str(key))}, "it is an X.509 certificate")
        tool(*new, "-new", "-keyout", str(key), "-out", str(request))
        self.named({"PKCS#10": request.read_text()}, "it is a request for an X.509 certificate")

    def test_a_certificate_beside_its_key(self) -> None:
        """Files of web servers hold both."""
        key, certificate = self.folder / "x.key", self.folder / "x.crt"
        new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-x509")
        tool(*new, "-keyout", str(key), "-out", str(certificate))
        for text in (key.read_text() + certificate.read_text(), certificate.read_text() + key.read_text()):
            self.assertFalse(parse_private_key(text).isPublic())

    def test_parameters(self) -> None:
        self.named({"EC": tool("openssl", "ecparam", "-name", "prime256v1")}, "it has the parameters of a key")

    def test_fingerprints(self) -> None:
        self.ssh_keygen("ed")
        path = str(self.folder / "ed.pub")
        line = tool("ssh-keygen", "-lf", path)
        self.named(
            {"SHA-256": line, "MD5": tool("ssh-keygen", "-lE", "md5", "-f", path), "alone": line.split()[1]},
            "it is the fingerprint of a key",
        )

    def test_other_programs_keys(self) -> None:
        self.named({"age": AGE, "age, without its notes": AGE.splitlines()[2]}, "it is a key of age")
        self.named({"age": AGE_FILE}, "it is encrypted with age; decrypt it first")
        self.named({"OpenPGP": PGP}, "it is a key of OpenPGP")
        self.named({"Ansible": VAULT}, "it is encrypted with Ansible Vault; decrypt it first")
        tpm = self.ssh_keygen("ed").replace("OPENSSH PRIVATE", "TSS2 PRIVATE")
        self.named({"TPM": tpm}, "it is a private key in a format that is not supported")
        self.named({"signature": "-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n"}, "it is a PEM text of another kind")

    def test_ssh_com(self) -> None:
        self.ssh_keygen("rsa", "-t", "rsa", "-b", "2048", "-m", "PEM")
        there, back = self.folder / "ssh.com", self.folder / "back"
        tool("puttygen", str(self.folder / "rsa"), "-O", "private-sshcom", "-o", str(there))
        words = "it is in the format of ssh.com; convert it, as with puttygen -O private-openssh"
        self.named({"ssh.com": there.read_text()}, words)
        tool("puttygen", str(there), "-O", "private-openssh", "-o", str(back))  # as the words say
        self.assertEqual(parse_private_key(back.read_text()), parse_private_key(self.read("rsa")))

    def test_paths(self) -> None:
        self.named(
            {
                path: path
                for path in (
                    "/home/me/.ssh/id_ed25519", "~/.ssh/id_rsa", "~me/keys/x", "./key", "../keys/deploy", "id_ecdsa_sk",
                    r"C:\Users\me\.ssh\id_rsa", "C:/keys/x", r"\\server\share\key", "$HOME/.ssh/id", "keys/deploy.pem",
                    "file:///etc/keys/deploy", r"%USERPROFILE%\.ssh\key", '"/etc/relayd/my key"', "deploy.ppk",
                )
            },
            "it looks like the path of a file; what is in the file is needed",
        )  # fmt: skip

    def test_nothing(self) -> None:
        self.named({"empty": "", "blank": " \n\t", "escaped": r"\n"}, "it is empty")
        self.named(
            {text: text for text in ("[object Object]", "undefined", "null", "<Buffer 2d 2d>", "${KEY}", "********")},
            "it looks like a placeholder",
        )


class AlmostTests(MistakenTestCase):
    """Private keys that something happened to."""

    def test_encoded_once_more(self) -> None:
        self.ssh_keygen("rsa", "-t", "rsa", "-b", "2048", "-m", "PEM")
        key = self.ssh_keygen("ed")
        for text in (key, self.read("rsa")):
            encoded = base64.b64encode(text.encode()).decode()
            wrapped = "\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76))
            urls = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
            self.named(
                {"one line": encoded, "lines": wrapped, "of URLs": urls}, "encoded once more (base64); decode it"
            )
            self.named({"URL": quote(text), "form": quote_plus(text)}, "encoded once more (URL); decode it")
            digits = text.encode().hex()
            self.named({"hex": digits, "bytea": f"\\x{digits}"}, "encoded once more (hex); decode it")
        buffer = json.dumps({"type": "Buffer", "data": list(key.encode())})
        self.named({"Buffer": buffer}, "it is a Buffer of Node.js in JSON")

    def test_line_ends_that_are_escaped_twice(self) -> None:
        putty = self.folder / "key.ppk"
        key = self.ssh_keygen("ed")
        tool("puttygen", str(self.folder / "ed"), "-o", str(putty))
        for text in (key, putty.read_text()):
            twice = json.dumps(json.dumps(text))[1:-1]
            self.named(
                {"once more": text.replace("\n", r"\\n"), "DOS": text.replace("\n", r"\\r\\n"), "JSON in JSON": twice,
                 "and once more": text.replace("\n", r"\\\\n")},
                r"its line ends are escaped twice (\\n)",
            )  # fmt: skip
            for once in (text.replace("\n", r"\n"), text.replace("\n", r"\r\n"), json.dumps(text)[1:-1]):
                self.assertEqual(parse_private_key(once), parse_private_key(key))

    def test_backslashes_before_a_key(self) -> None:
        """openssl writes names of a PKCS#12 file there, which are no line ends."""
        key = self.ssh_keygen("rsa", "-t", "rsa", "-b", "2048", "-m", "PKCS8")
        for name in (r"\\nas\share", r"\\relay\c$"):
            text = f"Bag Attributes\n    friendlyName: {name}\nKey Attributes: <No Attributes>\n{key}"
            for each in (text, text.replace("\n", r"\n")):
                self.assertEqual(parse_private_key(each), parse_private_key(key))

    def test_backslashes_in_the_comment_of_putty(self) -> None:
        """They are no line ends, where the text has its own."""
        self.ssh_keygen("ed")
        for comment in (r"C:\new\report", r"\\server\new", r"CORP\nobody"):
            path = self.folder / "key.ppk"
            tool("puttygen", str(self.folder / "ed"), "-C", comment, "-o", str(path))
            self.assertEqual(parse_private_key(path.read_text()), parse_private_key(self.read("ed")))

    def test_cut(self) -> None:
        whole = self.ssh_keygen("ed")
        encrypted = tool("openssl", "genpkey", "-algorithm", "RSA", "-aes256", "-pass", "pass:passphrase")
        for text in (whole, tool("openssl", "genpkey", "-algorithm", "RSA"), encrypted):
            lines = text.splitlines()
            self.named({"middle": "\n".join([*lines[:2], *lines[3:]])}, "a part of it is missing", "passphrase")
            for at in (len(lines[0]) + 1, len(text) // 2, len(text) - len(lines[-1]), len(text) - 7):
                self.named({f"at {at}": text[:at]}, "its end is missing: it was cut off")
            self.named({"beginning": text[len(text) // 2 :]}, "its beginning is missing")
        self.named({"both": "\n".join(whole.splitlines()[1:-1])}, "its first and its last line are missing")

    def test_damaged_first_line(self) -> None:
        text = self.ssh_keygen("ed")
        typeset = text.replace("-----", "\u2014\u2014-")  # as a word processor does
        self.named(
            {"four": text.replace("-----", "----"), "dashes": typeset, "lower case": text.lower()},
            "its first line is damaged; it should be -----BEGIN",
        )


class CipherTests(MistakenTestCase):
    """A passphrase that is right, and a cipher that the library does not have."""

    def test_in_pem(self) -> None:
        plain = tool("openssl", "genrsa", "-traditional", "2048")
        providers = ("-provider", "legacy", "-provider", "default")
        for option, name in (("-des", "DES-CBC"), ("-aes192", "AES-192-CBC"), ("-camellia128", "CAMELLIA-128-CBC")):
            encrypt = ("openssl", "rsa", "-traditional", option, "-passout", "pass:passphrase", *providers)
            text = tool(*encrypt, stdin=plain)
            self.assertIn(f"DEK-Info: {name},", text)
            words = (
                f"it is encrypted with {name}, which is not supported; encrypt it again, as with openssl pkey -aes256"
            )
            for passphrase in ("passphrase", "wrong", None):
                self.named({name: text}, words, passphrase)
            # as docs/howto/errors.rst says
            again = ("openssl", "pkey", "-aes256", "-passin", "pass:passphrase", "-passout", "pass:passphrase")
            new = tool(*again, *providers, stdin=text)
            self.assertEqual(parse_private_key(new, "passphrase"), parse_private_key(plain))

    def test_in_pkcs8(self) -> None:
        plain = tool("openssl", "genpkey", "-algorithm", "ed25519")
        ways = (("-v2", "des"), ("-v2", "camellia-256-cbc"), ("-v2", "aria-128-cbc"), ("-v1", "PBE-SHA1-2DES"))
        for way in ways:
            options = (*way, "-passout", "pass:passphrase", "-provider", "legacy", "-provider", "default")
            text = tool("openssl", "pkcs8", "-topk8", *options, stdin=plain)
            self.named({way[1]: text}, "it is encrypted with a cipher other than AES and 3DES", "passphrase")

    def test_names_that_only_a_damaged_key_has(self) -> None:
        """They may be anything, and are not shown."""
        secret = "hunter2secret"
        text = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: {secret},00\n\nAAAA\n"
        words = "it is encrypted with a cipher other than AES and 3DES, which is not supported"
        self.named({"PEM": text + "-----END RSA PRIVATE KEY-----\n"}, words, "passphrase")
        for kind in (NS(NS(b"sk-" + secret.encode())), NS(NS(b"ssh-ed25519"))):
            data = b"openssh-key-v1\0" + NS(secret.encode()) + NS(b"bcrypt") + NS(NS(b"salt") + b"\0\0\0\1")
            body = base64.b64encode(data + b"\0\0\0\1" + kind + NS(b"private!")).decode()
            text = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
            self.named({"OpenSSH": text}, words, "passphrase")
            self.assertNotIn(secret, str(self.assertRaises(UnreadableKey, parse_private_key, text, "passphrase")))

    def test_all_that_work(self) -> None:
        """A cipher that works is never said to be unsupported, whatever the passphrase."""
        plain = tool("openssl", "genpkey", "-algorithm", "ed25519")
        texts = [
            tool("openssl", "pkcs8", "-topk8", *way, "-passout", "pass:passphrase", "-provider", "legacy",
                 "-provider", "default", stdin=plain)
            for way in (
                ("-v2", "aes-128-cbc"), ("-v2", "aes-192-cbc"), ("-v2", "aes-256-cbc"), ("-v2", "des3"), ("-scrypt",),
                ("-v1", "PBE-MD5-DES"), ("-v1", "PBE-SHA1-3DES"), ("-v1", "PBE-SHA1-RC4-128"),
            )
        ]  # fmt: skip
        self.ssh_keygen("ed")
        for cipher in ("aes256-cbc", "aes256-ctr", "aes256-gcm@openssh.com"):
            path = str(self.folder / "ed")
            tool("ssh-keygen", "-q", "-a", "1", "-p", "-Z", cipher, "-P", "", "-N", "passphrase", "-f", path)
            texts.append(self.read("ed"))
            tool("ssh-keygen", "-q", "-a", "1", "-p", "-P", "passphrase", "-N", "", "-f", path)
        for text in texts:
            parse_private_key(text, "passphrase")
            self.named({"wrong": text}, "the passphrase is wrong", "wrong")
            self.named({"none": text}, "it is encrypted, and no passphrase was given")

    def test_in_openssh(self) -> None:
        self.ssh_keygen("ed")
        path = str(self.folder / "ed")
        public = parse_private_key(self.read("ed")).public()
        for cipher in ("aes128-ctr", "3des-cbc", "chacha20-poly1305@openssh.com"):
            tool("ssh-keygen", "-q", "-a", "1", "-p", "-Z", cipher, "-P", "", "-N", "passphrase", "-f", path)
            words = f"it is encrypted with {cipher}, which is not supported; encrypt it again, as with ssh-keygen -p"
            self.named({cipher: self.read("ed")}, words, "passphrase")
            tool(
                "ssh-keygen", "-q", "-a", "1", "-p", "-P", "passphrase", "-N", "passphrase", "-f", path
            )  # as the words say
            self.assertEqual(parse_private_key(self.read("ed"), "passphrase").public(), public)
            tool("ssh-keygen", "-q", "-a", "1", "-p", "-P", "passphrase", "-N", "", "-f", path)


class FidoTests(MistakenTestCase):
    """Keys of hardware tokens: what is in the file is no more than their handle."""

    def make(self, kind: bytes, public: bytes) -> str:
        """A file as ``ssh-keygen -t ed25519-sk`` makes it, which needs a token (OpenSSH's PROTOCOL.u2f)."""
        private = NS(kind) + public + b"\1" + NS(bytes(range(64))) + NS(b"") + NS(b"me")
        private = bytes(8) + private
        private += bytes(range(1, 1 + -len(private) % 8))
        nothing = NS(b"none") + NS(b"none") + NS(b"")
        data = base64.b64encode(b"openssh-key-v1\0" + nothing + b"\0\0\0\1" + NS(NS(kind) + public) + NS(private))
        body = "\n".join(data[at : at + 70].decode() for at in range(0, len(data), 70))
        return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"

    def test_named_before_a_passphrase_is_wanted(self) -> None:
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        ed = NS(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*raw)) + NS(b"ssh:")
        nist = NS(b"nistp256") + NS(ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*point))
        for kind, public in (
            (b"sk-ssh-ed25519@openssh.com", ed),
            (b"sk-ecdsa-sha2-nistp256@openssh.com", nist + NS(b"ssh:")),
        ):
            path = self.folder / kind.decode()
            path.write_text(self.make(kind, public))
            path.chmod(0o600)
            self.assertTrue(tool("ssh-keygen", "-yf", str(path)).startswith(kind.decode()))  # a real one
            words = f"it is a FIDO key ({kind.decode()}), which cannot sign without its hardware token"
            self.named({"plain": path.read_text()}, words)
            tool("ssh-keygen", "-q", "-a", "1", "-p", "-P", "", "-N", "passphrase", "-f", str(path))
            for passphrase in (None, "passphrase", "wrong"):
                self.named({"encrypted": path.read_text()}, words, passphrase)


class CertificateTests(MistakenTestCase):
    """The same things in the place of a certificate."""

    def test_named(self) -> None:
        key = self.ssh_keygen("ed")
        for text, words in (
            (key, "it is a private key"),
            (self.read("ed.pub"), "it is a public key (ssh-ed25519)"),
            (tool("ssh-keygen", "-lf", str(self.folder / "ed")), "it is the fingerprint of a key"),
            ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "it is an X.509 certificate"),
            ("~/.ssh/id_ed25519-cert.pub", "it looks like the path of a file"),
            ("nonsense", "it does not begin with a type such as ssh-ed25519-cert-v01@openssh.com"),
        ):
            self.assertEqual(
                str(self.assertRaises(BadCertificate, read_user_certificate, text, 0.0))[: len(words)], words
            )


class AnythingTests(SynchronousTestCase):
    """Whatever comes, the answer is a reason."""

    @settings(max_examples=150)
    @given(
        st.lists(
            st.one_of(
                st.text(max_size=30),
                st.sampled_from(
                    ["-----BEGIN ", "PRIVATE KEY-----", "-----END ", "OPENSSH ", "ssh-rsa ", "AAAAB3NzaC1yc2E", "\\",
                     "n", "\n", "%2D", "0x2d", "SHA256:", "/", "PuTTY-User-Key-File-3: ", "DEK-Info: ", "AGE-SECRET-",
                     "Proc-Type: 4,ENCRYPTED"]
                ),
            ),
            max_size=12,
        ).map("".join),
        st.sampled_from([None, "passphrase"]),
    )  # fmt: skip
    def test_key(self, text: str, passphrase: str | None) -> None:
        error = self.assertRaises(UnreadableKey, parse_private_key, text, passphrase)
        self.assertTrue(str(error).isprintable())
        certificate = self.assertRaises(BadCertificate, read_user_certificate, text, 0.0)
        self.assertTrue(str(certificate).isprintable())
