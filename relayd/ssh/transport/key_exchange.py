"""
The key exchanges of a connection: KEXINIT of both sides, the messages of the method, NEWKEYS of both sides. No I/O.

Source: RFC 4253, sections 7 and 9; OpenSSH's PROTOCOL, section 1.10 (strict key exchange).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relayd.ssh.transport.algorithms import AlgorithmPolicy
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.ciphers import Opener, packet_cipher
from relayd.ssh.transport.kexinit import NegotiatedAlgorithms, kexinit
from relayd.ssh.transport.key_exchange_methods import METHODS, Agreed, KeyExchangeMethod
from relayd.ssh.transport.numbers import MSG_DISCONNECT, MSG_EXT_INFO, MSG_KEXINIT, MSG_NEWKEYS
from relayd.ssh.transport.packets import PacketReader, PacketWriter
from relayd.ssh.transport.session_keys import BadProof, KeySchedule, check_proof, exchange_hash
from relayd.ssh.transport.version_exchange import CLIENT_VERSION


class KeyExchange:
    """
    Exchanges keys with a server, once at the beginning and then as often as one of the two wants.

    Its methods return the packets to send. The order of one exchange is `begin`, `negotiate`, `respond`,
    `method_message_received` once or twice, `finish`; a server may leave out `begin`.

    :param policy: the algorithms to offer.
    :param host_key_algorithms: those for host keys, in the order for this host.
    :param verify_host_key: raises an error for a key that is not the host's.
    :param reader: gets the new keys for what the server sends, and *writer* those for what we send.
    :ivar running: whether our KEXINIT was sent and the server's NEWKEYS has not come yet.
    :ivar secured: whether the first exchange has ended.
    :ivar strict: whether both sides want a strict key exchange.
    :ivar algorithms: those in use, or about to be.
    :ivar session_id: identifies the connection to those who sign something (RFC 4253, section 7.2).
    """

    def __init__(
        self,
        policy: AlgorithmPolicy,
        host_key_algorithms: Sequence[bytes],
        verify_host_key: Callable[[bytes], None],
        reader: PacketReader,
        writer: PacketWriter,
    ) -> None:
        self.running = False
        self.secured = False
        self.strict = False
        self.algorithms: NegotiatedAlgorithms | None = None
        self.session_id: bytes | None = None
        self._policy = policy
        self._host_key_algorithms = host_key_algorithms
        self._verify_host_key = verify_host_key
        self._reader = reader
        self._writer = writer
        self._server_version = b""
        self._our_kexinit = self._their_kexinit = b""
        self._method: KeyExchangeMethod | None = None
        self._next_opener: Opener | None = None
        self._host_key = b""

    def version_received(self, version: bytes) -> None:
        """The server has sent its version, which goes into the exchange hash."""
        self._server_version = version

    def allows(self, message: int) -> bool:
        """Whether a server may send a message of the transport protocol now that does not belong to the exchange."""
        return self.secured or message == MSG_DISCONNECT or not (self.strict or message == MSG_EXT_INFO)

    def begin(self) -> bytes:
        """Our KEXINIT."""
        payload = kexinit(self._policy, self._host_key_algorithms)
        self._our_kexinit = bytes((MSG_KEXINIT,)) + payload
        self.running = True
        return self._writer.packet(MSG_KEXINIT, payload)

    def negotiate(self, payload: bytes) -> None:
        """
        Choose the algorithms by the server's KEXINIT.

        :raises NothingInCommon: see `NegotiatedAlgorithms`.
        :raises Breach: see there; also when a KEXINIT must not come now.
        """
        if self._method is not None:
            raise Breach("a second KEXINIT")
        algorithms = NegotiatedAlgorithms(payload, self._policy, self._host_key_algorithms)
        if not self.secured:
            self.strict = algorithms.strict
            if self.strict and self._reader.sequence != 1:
                raise Breach("packets before its KEXINIT in a strict key exchange")
        self.algorithms = algorithms
        self._their_kexinit = bytes((MSG_KEXINIT,)) + payload
        self._method = METHODS[algorithms.key_exchange]()

    @property
    def price(self) -> int:
        """
        Microseconds of processor time that the exchange takes on a slow machine.

        To check a signature of the longest RSA key takes as long as two exchanges.
        """
        assert self._method is not None
        return self._method.price + 2 * len(self._host_key)

    def respond(self) -> bytes:
        """The first message of the method that was negotiated, after our KEXINIT, unless that was sent already."""
        assert self._method is not None
        begun = b"" if self.running else self.begin()
        return begun + self._writer.packet(*self._method.first())

    def method_message_received(self, message: int, payload: bytes) -> bytes:
        """
        The server has sent a message of the method.

        :return: the next one, or our NEWKEYS; all packets that follow it are protected by the new keys.
        :raises BadProof: when the server did not prove that it has the host's key.
        :raises Breach: when the message makes no sense.
        :raises SSHError: what *verify_host_key* raised.
        """
        if self._method is None or self._next_opener is not None:
            raise Breach("message {number} outside a key exchange", number=message)
        outcome = self._method.step(message, payload)
        if not isinstance(outcome, Agreed):
            return self._writer.packet(*outcome)
        versions_and_kexinits = (CLIENT_VERSION, self._server_version, self._our_kexinit, self._their_kexinit)
        digest = exchange_hash(self._method.hash_name, versions_and_kexinits, outcome)
        self._our_kexinit = self._their_kexinit = b""  # up to some KB, of no more use
        self._check_host(outcome, digest)
        if self.session_id is None:
            self.session_id = digest
        return self._use_keys(KeySchedule(self._method.hash_name, outcome.secret, digest, self.session_id))

    def finish(self) -> None:
        """
        The server has sent its NEWKEYS: all packets that follow are protected by the new keys.

        :raises Breach: when there are none.
        """
        if self._next_opener is None:
            raise Breach("NEWKEYS outside a key exchange")
        self._reader.use(self._next_opener, restart_numbers=self.strict)
        self._next_opener = None
        self._method = None
        self.running = False
        self.secured = True

    def _check_host(self, agreed: Agreed, digest: bytes) -> None:
        """The host must show the key that we know, and prove that it has it."""
        assert self.algorithms is not None
        check_proof(agreed, self.algorithms.host_key, digest, self._policy.min_rsa_bits)
        if not self.secured:
            self._verify_host_key(agreed.host_key)
        elif agreed.host_key != self._host_key:
            raise BadProof("its host key changed while it was connected")
        self._host_key = agreed.host_key

    def _use_keys(self, keys: KeySchedule) -> bytes:
        """Our NEWKEYS; what the server sends is protected by the new keys from its own NEWKEYS on."""
        algorithms = self.algorithms
        assert algorithms is not None
        self._next_opener = packet_cipher(algorithms.cipher_in, algorithms.mac_in, keys.inward)
        newkeys = self._writer.packet(MSG_NEWKEYS)
        sealer = packet_cipher(algorithms.cipher_out, algorithms.mac_out, keys.out)
        self._writer.use(sealer, restart_numbers=self.strict)
        return newkeys
