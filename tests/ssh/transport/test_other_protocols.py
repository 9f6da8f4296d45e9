"""
Servers of other protocols: what real ones send to an SSH client, as it was recorded.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.other_protocols import recognise
from relayd.ssh.transport.version_exchange import NoVersion, VersionReader

#: What each sent after ``SSH-2.0-relayd`` and the first packet, or before it; and what is said of it. MySQL's refusal,
#: VNC, Telnet and AMQP are from their specifications.
RECORDED = {
    "GnuTLS 3.7.9, Java 17": (b"\x15\x03\x03\x00\x02\x02\n", "it sent a TLS record"),
    "TLS 1.0, alert 70": (b"\x15\x03\x01\x00\x02\x02\x46", "it sent a TLS record"),
    "nginx 1.22.1 with and without TLS": (
        b"HTTP/1.1 400 Bad Request\r\nServer: nginx/1.22.1\r\nContent-Type: text/html\r\n\r\n<html>\r\n",
        "it answered “HTTP/1.1 400 Bad Request”, as a web server does",
    ),
    "Python's http.server": (b'<!DOCTYPE HTML>\n<html lang="en">\n    <head>\n', "it sent a web page"),
    "MariaDB 10.11.19": (
        b"d\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1\x00\x03\x00\x00\x005+r$Wl8r\x00\xfe\xf7\x08\x02\x00\xff\x81",
        "it sent a greeting of MySQL or MariaDB, version 5.5.5-10.11.19-MariaDB-0+deb12u1",
    ),
    "MySQL, from a client that it does not know": (
        b"A\x00\x00\x00\xffj\x04Host '10.0.0.9' is not allowed to connect to this MySQL server",
        "it answered “Host '10.0.0.9' is not allowed to connect to this MySQL server”, as MySQL or MariaDB does",
    ),
    "vsftpd 3.0.3": (
        b"220 (vsFTPd 3.0.3)\r\n530 Please login with USER and PASS.\r\n",
        "it answered “530 Please login with USER and PASS.”, as a server of FTP or SMTP does",
    ),
    "vsftpd 3.0.3, set up wrongly": (
        b"500 OOPS: vsftpd: cannot locate user specified in 'ftp_username':ftp\r\n",
        "it answered “500 OOPS: vsftpd: cannot locate user specified in 'ftp_username':ftp”, as a server of FTP",
    ),
    "pyftpdlib 1.5.7": (
        b'220 pyftpdlib 1.5.7 ready.\r\n500 Command "SSH-2.0-RELAYD" not understood.\r\n',
        "it answered “500 Command \"SSH-2.0-RELAYD\" not understood.”, as a server of FTP or SMTP does",
    ),
    "aiosmtpd 1.4.6": (
        b'220 localhost Python SMTP 1.4.6\r\n500 Error: command "SSH-2.0-RELAYD" not recognized\r\n',
        "as a server of FTP or SMTP does",
    ),
    "a greeting of several lines": (
        b"220-mail.example\r\n220-Be nice\r\n220 ESMTP\r\n502 5.5.2 Error: command not recognized\r\n",
        "it answered “502 5.5.2 Error: command not recognized”",
    ),
    "Twisted's POP3": (
        b"+OK <20261127192942.6678@localhost>\r\n-ERR not authenticated yet: cannot do SSH-2.0-RELAYD\r\n",
        "it answered “-ERR not authenticated yet: cannot do SSH-2.0-RELAYD”, as a server of POP3 does",
    ),
    "Twisted's IMAP4Server": (
        b"* OK [CAPABILITY IMAP4rev1 NAMESPACE IDLE] Twisted IMAP4rev1 Ready\r\nSSH-2.0-relayd BAD Missing command\r\n",
        "it answered “SSH-2.0-relayd BAD Missing command”, as a server of IMAP does",
    ),
    "Redis 7.0.15": (
        b"-ERR unknown command 'SSH-2.0-relayd', with args beginning with: \r\n",
        "it answered “-ERR unknown command 'SSH-2.0-relayd', with args beginning with:”, as Redis does",
    ),
    "rsync 3.2.7": (
        b"@RSYNCD: 32.0 sha512 sha256 sha1 md5 md4\n@ERROR: protocol startup error\n",
        "it greets with “@RSYNCD: 32.0”, as a server of rsync does",
    ),
    "VNC": (b"RFB 003.008\n", "it greets with “RFB 003.008”, as a server of VNC does"),
    "Telnet": (b"\xff\xfd\x18\xff\xfd\x20\xff\xfd\x23\xff\xfd\x27", "it negotiates as a server of Telnet does"),
    "AMQP": (b"AMQP\x00\x00\x09\x01", "it answered as a server of AMQP does"),
}  # fmt: skip

#: What an SSH server may send before its version, and what says too little.
UNKNOWN = (
    b"220 mail.example ESMTP\r\n",
    b"+OK Dovecot ready.\r\n",
    b"* OK ready\r\n",
    b"Welcome to the host\r\nHTTP/1.1 is spoken elsewhere\r\n",
    b"Exceeded MaxStartups\r\n",
    b"ERROR\r\n",
    b"-----\r\n| ERR |\r\n",
    b"500 lines of notice follow\r\n",
    b"\x15\x04\x03\x00\x02",
    b"\x00" * 40,
    b"",
)


class RecordedTests(SynchronousTestCase):
    def read(self, *pieces: bytes) -> str | None:
        reader = VersionReader()
        try:
            for piece in pieces:
                reader.read(piece)
        except NoVersion as error:
            return str(error)
        return None

    def test_recognised_at_once(self) -> None:
        for server, (sent, words) in RECORDED.items():
            said = self.read(sent)
            assert said is not None, server
            self.assertIn(words, said, server)
            self.assertTrue(said.isprintable(), server)

    def test_byte_by_byte(self) -> None:
        """With a version of its own that is not there yet, MySQL is not taken for anything else, for example."""
        for server, (sent, words) in RECORDED.items():
            said = self.read(*(sent[at : at + 1] for at in range(len(sent))))
            self.assertIn(words, said or "", server)

    def test_what_proves_nothing(self) -> None:
        for sent in UNKNOWN:
            self.assertIsNone(self.read(sent), sent)
            reader = VersionReader()
            reader.read(sent)
            self.assertEqual(reader.read(b"\r\nSSH-2.0-OpenSSH_9.2\r\n"), (b"SSH-2.0-OpenSSH_9.2", 23), sent)

    def test_what_comes_first_wins(self) -> None:
        """A version behind it, in the same piece or not, changes nothing."""
        for server, (sent, _) in RECORDED.items():
            if b"\nSSH-" not in b"\n" + sent:
                version = b"\r\nSSH-2.0-OpenSSH_9.2\r\n"
                said = self.read(sent + version)
                assert said is not None, server
                self.assertEqual(said, self.read(sent, version), server)
                self.assertEqual(said, self.read(*((sent + version)[at : at + 1] for at in range(len(sent) + 23))))

    def test_long_and_wild(self) -> None:
        for sent in (
            b"HTTP/1.1 200 \x1b[2J\x07" + b"\xe2\x80\xae" * 50 + b"\r\n",
            b"-ERR " + b"x" * 250 + b"\n",
            b"220 x\r\n599 " + b"\x85" * 200 + b"\r\n",
        ):
            said = self.read(sent)
            assert said is not None
            self.assertTrue(said.isprintable())
            self.assertLess(len(said), 200)

    @given(st.binary(max_size=300))
    def test_anything(self, sent: bytes) -> None:
        said = recognise(sent)
        self.assertTrue(said is None or said.isprintable())
