"""
What can go wrong between a client and an SSH server, as one tree.

As `DescribedError` says, the docstring of a class is the message that a person reads, with the error's fields in it.
This module is long as it is a list: each class is a code with its message, and they are looked up and read together.
"""

from __future__ import annotations

from relayd.language.errors import DescribedError


class SSHError(DescribedError):
    """The SSH client met an error that has no name of its own."""

    # `phase` is one of resolve, connect, key-exchange, login, session, run.
    code = "ssh"
    #: Whether it is not the host itself that it tells of, but a jump host on the way.
    at_jump_host = False


class NameNotFound(SSHError):
    """The name {host} cannot be resolved. Check its spelling, and the name servers of the client's machine."""

    code = "name-not-found"
    phase = "resolve"
    retriable = True


class NameTimeout(SSHError):
    """The name {host} was not resolved within {time}. Check the name servers of the client's machine."""

    code = "name-timeout"
    phase = "resolve"
    retriable = True


class AddressForbidden(SSHError):
    """{host}:{port} is forbidden: it has no address that is allowed."""

    code = "forbidden-host"
    phase = "resolve"


class HiddenAddressForbidden(AddressForbidden):
    """{host}:{port} is forbidden: it is reached through a jump host, so its name cannot be resolved and checked
    beforehand. Use its address."""


class ConnectRefused(SSHError):
    """{host}:{port} refused the connection. Check the port, and that an SSH server runs there."""

    code = "connect-refused"
    phase = "connect"
    retriable = True


class Unreachable(SSHError):
    """{host}:{port} cannot be reached: {reason}. Check the address, and the network on the way to it."""

    code = "unreachable"
    phase = "connect"
    retriable = True


class NoDescriptor(SSHError):
    """No file descriptor is left for a connection to {host}:{port}: {reason}. Raise that limit, or allow fewer
    connections in all."""

    code = "no-descriptor"
    phase = "connect"
    retriable = True


class ConnectTimeout(SSHError):
    """{host}:{port} did not answer within {time}. Check the address, and that no firewall drops the
    connection."""

    code = "connect-timeout"
    phase = "connect"
    retriable = True


class ForwardFailed(SSHError):
    """{via} could not connect to {host}:{port}: {reason}. Check the address, and the network between the two."""

    code = "forward-failed"
    phase = "connect"
    retriable = True


class ForwardProhibited(ForwardFailed):
    """{via} does not allow forwarding to {host}:{port}: {reason}. Check AllowTcpForwarding and PermitOpen of its SSH
    server."""

    code = "forward-prohibited"
    retriable = False


class TooManyHops(SSHError):
    """The way to {host}:{port} has more jump hosts than connections are allowed in all ({most})."""

    code = "too-many-hops"
    phase = "connect"


class KeyExchangeTimeout(SSHError):
    """{host}:{port} accepted the connection, but did not finish the SSH key exchange within {time}: {reason}. It may be
    overloaded, or not be an SSH server."""

    code = "key-exchange-timeout"
    phase = "key-exchange"
    retriable = True


class LoginTimeout(SSHError):
    """{host}:{port} did not finish the login of {username} within {time}: {reason}. It may be overloaded, or be waiting
    for its directory service or name server."""

    code = "login-timeout"
    phase = "login"
    retriable = True


class NotSSH(SSHError):
    """{host}:{port} does not speak SSH 2: {reason}. Check the port."""

    code = "not-ssh"
    phase = "key-exchange"


class KeyExchangeFailed(SSHError):
    """The SSH key exchange with {host}:{port} failed: {reason}."""

    code = "key-exchange-failed"
    phase = "key-exchange"


class ConnectionDropped(SSHError):
    """{host}:{port} closed the connection during the {step}: {reason}. Check the port. If it is that of an SSH server,
    this may be overloaded (MaxStartups), or refuse connections from the client's address."""

    code = "connection-dropped"
    phase = "key-exchange"
    retriable = True


class LoginDropped(ConnectionDropped):
    """{host}:{port} closed the connection during the login: {reason}. It may be overloaded, or restarting."""

    code = "login-dropped"
    phase = "login"


class NoCommonAlgorithm(KeyExchangeFailed):
    """{host}:{port} and this client have no {kind} in common. The host offers {theirs}; this client has {ours}, and no
    others, whatever its settings. Let the host's SSH server offer one of these, too."""

    code = "no-common-algorithm"


class OutdatedInCommon(NoCommonAlgorithm):
    """{host}:{port} and this client have no {kind} in common. The host offers {theirs}; this client offers {ours}. Its
    legacy algorithms, which are outdated, would do: it would use {names} here."""


class LibraryMissing(NoCommonAlgorithm):
    """{host}:{port} and this client have no {kind} in common. The host offers {theirs}; this client offers {ours}. It
    would offer {name} if the Python package {library} were installed beside it."""


class ProtocolBroken(SSHError):
    """{host}:{port} broke the SSH protocol during the login: {reason}. Its SSH server may be faulty, or something on
    the way may change what it sends."""

    code = "protocol-broken"
    phase = "login"


class HostKeyChanged(SSHError):
    """The host key of {host}:{port} has changed: the known key is {known}, the host showed {shown}. Somebody may be
    intercepting the connection; nothing was sent. If the host really has a new key, remove line {line} of {file}."""

    code = "host-key-changed"
    phase = "key-exchange"


class HostKeyUnknown(SSHError):
    """The host key of {host}:{port} is not known: it showed {shown}. Only known hosts are accepted: check the
    fingerprint at the host, and add its key to {file}."""

    code = "host-key-unknown"
    phase = "key-exchange"


class HostKeyUnexpected(SSHError):
    """The host key of {host}:{port} is not the one that the command expects: it expects {expected}, the host showed
    {shown}. Somebody may be intercepting the connection; nothing was sent. If the host has several keys, name the type
    too, as in "ssh-ed25519 SHA256:..."."""

    code = "host-key-unexpected"
    phase = "key-exchange"


class HostKeyRevoked(SSHError):
    """The host key {shown} of {host}:{port} is revoked by line {line} of {file}; nothing was sent."""

    code = "host-key-revoked"
    phase = "key-exchange"


class HostCertificateInvalid(SSHError):
    """The certificate of {host}:{port} is not valid, although its authority on line {line} of {file} is trusted:
    {reason}; nothing was sent. Renew the certificate at the host, or check the fingerprint of the host's key, {shown},
    and add that key to the file."""

    code = "host-certificate-invalid"
    phase = "key-exchange"


class KnownHostsUnusable(SSHError):
    """The file of known host keys {file} cannot be used: {reason}. No host is trusted without it."""

    code = "known-hosts-unusable"
    phase = "key-exchange"


class KeyUnreadable(SSHError):
    """The private key for {username}@{host} cannot be used: {reason}. Check that it is the whole text of a private key,
    and its passphrase."""

    code = "key-unreadable"
    phase = "login"


class CertificateUnusable(SSHError):
    """The certificate for {username}@{host} cannot be used: {reason}."""

    code = "certificate-unusable"
    phase = "login"


class AgentUnusable(SSHError):
    """The ssh-agent at {path} cannot be used for {username}@{host}: {reason}."""

    code = "agent-unusable"
    phase = "login"


class CredentialUnusable(SSHError):
    """The credential in {file} cannot be used: {reason}."""

    code = "credential-unusable"
    phase = "login"


class NoCredential(SSHError):
    """The credentials table has no credential for {username}@{host}:{port}: {reason}."""

    code = "no-credential"
    phase = "login"


class LoginRefused(SSHError):
    """{host}:{port} refused the login of {username}: tried {tried}; the server offers {offered}. Check the user name
    and the password or key, and that the server allows this kind of login."""

    code = "login-refused"
    #: Where the server closed the connection before all was tried: how many of the keys were; else ``None``.
    keys_tried: int | None = None
    #: Whether there is a password that was not tried.
    password_left = False
    phase = "login"


class LoginClosed(LoginRefused):
    """{host}:{port} closed the connection when {username} tried to log in by {tried}: {reason}. Check the user name and
    the password or key, and the log of its SSH server: the account may have expired, be locked, be closed for
    maintenance, or not be allowed in from the client's address."""

    code = "login-closed"


class PromptUnknown(LoginRefused):
    """{host}:{port} asks for more than the password of {username}: “{prompt}”. The question was not answered: this
    client has no one-time codes, and gives the password only where the server asks for it. Let the account in with a
    key, or with the password alone."""

    code = "login-prompt"


class SignatureRefused(LoginRefused):
    """{host}:{port} refused the login of {username}: tried {tried}. The key may be the right one: the server does not
    accept the kind of signature that this client makes with it."""

    code = "login-signature"


class LoginResting(LoginRefused):
    """{reason} This login is not tried again for {time}, so that the server does not lock out the account or the
    client's address."""

    code = "login-resting"
    retriable = True


class HostResting(LoginRefused):
    """{host}:{port} refused {times} logins within a minute. So that it does not lock out the client's address, only
    logins that it accepted before are tried there for {time}. Check the passwords and keys that are used for this
    host."""

    code = "host-resting"
    retriable = True


class PasswordExpired(SSHError):
    """The password of {username} at {host}:{port} has expired. Log in by hand and set a new one."""

    code = "password-expired"
    phase = "login"


class AccountClosed(SSHError):
    """{host}:{port} lets {username} in but runs nothing: it answers every command with “{words}”. The account or the
    host is closed: look there."""

    code = "account-closed"
    phase = "session"


class NoSession(SSHError):
    """{host}:{port} let {username} in, but its PAM opened no session, so nothing was run: {reason}. A limit of logins
    may be reached (pam_limits), or the account may be closed: look at the log of its SSH server."""

    code = "no-session"
    phase = "session"
    retriable = True


class SessionRefused(SSHError):
    """{host}:{port} refuses to open a session ({reason}). Check MaxSessions of its SSH server, and that
    {username} may run commands."""

    code = "session-refused"
    phase = "session"
    retriable = True


class ExecRefused(SSHError):
    """{host}:{port} accepted the login of {username}, but refuses to run commands."""

    code = "exec-refused"
    phase = "session"


class ShellUnsuitable(SSHError):
    """The command was not run. What answers {username} at {host}:{port} is not a shell that this client can give a
    directory or variables to, or it could not read the command; what it said is shown above. Send the command without
    cwd and env, or give the account a shell such as sh, bash, zsh, fish or tcsh."""

    code = "shell-unsuitable"
    phase = "session"


class DirectoryUnusable(SSHError):
    """The command was not run: {username} at {host}:{port} cannot work in the directory that cwd names; what the shell
    said is shown above. Check that the directory exists, that the account may enter it, and that its shell is not a
    restricted one."""

    code = "directory-unusable"
    phase = "session"


class VariablesRefused(SSHError):
    """The command was not run: the shell of {username} at {host}:{port} does not accept the variables of env; what it
    said is shown above. Some shells reserve certain names."""

    code = "variables-refused"
    phase = "session"


class ScriptNotStarted(SSHError):
    """The script was not run: it could not be given to {username} at {host}:{port}; what was said is shown above. It
    needs /bin/sh there, and a directory for temporary files that the user may write to, such as /tmp."""

    code = "script-not-started"
    phase = "session"


class FileNotWritten(SSHError):
    """The command was not run: its file {path} could not be written at {host}:{port}; {reason}. Check that the
    directory exists, that the user may write there, and that there is room."""

    code = "file-not-written"
    phase = "session"


class FilesUnsupported(SSHError):
    """The command was not run: files cannot be written to, or fetched from, {host}:{port}; {reason}. What is needed is
    SFTP there, or a POSIX shell; else send the command without files and fetch."""

    code = "files-unsupported"
    phase = "session"


class TerminalRefused(SSHError):
    """The command was not run: {host}:{port} gives {username} no terminal. Send the command without pty, or allow it in
    the configuration of the SSH server (PermitTTY)."""

    code = "pty-refused"
    phase = "session"


class BecomeFailed(SSHError):
    """The command was not run: {method} at {host}:{port} did not let {username} become {user}; {reason}."""

    code = "become-failed"
    phase = "session"


class BecomeMissing(BecomeFailed):
    """The command was not run: {username} at {host}:{port} finds no {method} in its PATH. Install it, or use another
    method."""

    code = "become-missing"


class BecomePasswordWrong(BecomeFailed):
    """The command was not run: {method} at {host}:{port} did not accept the password that {username} gave to become
    {user}. It was given once. sudo asks for the password of the user who logs in, su for that of the other one."""

    code = "become-password-wrong"


class BecomePasswordNeeded(BecomeFailed):
    """The command was not run: {method} at {host}:{port} asks {username} for a password to become {user}, and none was
    given."""

    code = "become-password-needed"


class BecomeForbidden(BecomeFailed):
    """The command was not run: {method} at {host}:{port} does not allow {username} to run /bin/sh as {user}; {reason}.
    With sudo, see sudoers(5) there."""

    code = "become-not-allowed"


class BecomeTerminalNeeded(BecomeFailed):
    """The command was not run: {method} at {host}:{port} wants a terminal before {username} becomes {user}. Send the
    command with pty."""

    code = "become-tty-required"


class BecomePrompt(BecomeFailed):
    """The command was not run: {method} at {host}:{port} asks {username}, who is to become {user}, for something else
    than the password; {reason}. The question was not answered."""

    code = "become-prompt"


class NoShell(SSHError):
    """The command was not run: the site says that {host}:{port} has no shell (shell = "none"), so nothing there reads a
    directory or variables. Send the command without cwd and env."""

    code = "no-shell"
    phase = "session"


class UnfitForShell(SSHError):
    """The command was not run: {shell} on {host}:{port} cannot be given it: {reason}."""

    code = "unfit-for-shell"
    phase = "session"


class CommandReplaced(SSHError):
    """{host}:{port} ended the session without a sign that a shell reached the command: the shell of {username} may have
    failed to read it, or another command may be forced there and have run instead. What was said is shown above. Send
    the command without cwd and env."""

    code = "command-replaced"
    phase = "run"
    executed = "unknown"


class CommandTooLong(SSHError):
    """The command is too long for {host}:{port}, and was not run: with its directory and variables it has {size} bytes,
    and the host's SSH server accepts {most}. Send a short command such as sh, and give it the rest as standard input
    (stdin)."""

    code = "command-too-long"
    phase = "session"


class CommandNotStarted(CommandTooLong):
    """The command is too long for the system of {host}:{port}, which did not start it: “{words}”; it has {size} bytes,
    and the limit of Linux is 128 KiB. Send a short command such as sh, and give it the rest as standard input
    (stdin)."""


class CommandLineTooLong(CommandTooLong):
    """The command is too long for {shell} on {host}:{port}, and was not run: with its directory and variables the line
    has {size} characters, and the limit of Windows is {most}. Send a short command, and give it the rest as standard
    input (stdin)."""


class PacketsTooSmall(SSHError):
    """The SSH server of {host}:{port} takes no more than {size} bytes of input in a packet, too few for this client, so
    nothing was run. Send the command without standard input (stdin), and without script, files, become and pty, which
    need it, too."""

    code = "packets-too-small"
    phase = "session"


class SessionTimeout(SSHError):
    """The command timed out after {time} while it waited for {host}:{port} ({waited_for}); it was not run."""

    code = "timeout"
    phase = "session"
    retriable = True


class ConnectionLost(SSHError):
    """The connection to {host}:{port} was lost before the command was started: {reason}."""

    code = "connection-lost"
    phase = "session"
    retriable = True


class OutcomeUnknown(SSHError):
    """The connection to {host}:{port} was lost while the command ran: {reason}. Whether it completed is not known;
    look at the host before you send it again."""

    code = "outcome-unknown"
    phase = "run"
    executed = "unknown"


class NoExitStatus(SSHError):
    """{host}:{port} ended the session without an exit status. Whether the command completed is not known."""

    code = "no-exit-status"
    phase = "run"
    executed = "unknown"


class RunTimeout(SSHError):
    """The command timed out after {time} on {host}:{port}. {outcome}"""

    code = "timeout"
    phase = "run"
    executed = "yes"


class RunCancelled(SSHError):
    """The command was cancelled while it ran on {host}:{port}. {outcome}"""

    code = "cancelled"
    phase = "run"
    executed = "yes"


class NotRun(SSHError):
    """The command for {host}:{port} was cancelled before it ran."""

    code = "cancelled"
    phase = "session"


class DeviceNotReady(SSHError):
    """{host}:{port} opened its command line, but does not take commands: {reason}. Log in by hand and look; the family
    of the device must be right, and nothing may wait for an answer after the login."""

    code = "device-not-ready"
    phase = "session"


class PrivilegeRefused(SSHError):
    """{host}:{port} did not give the privileged mode: {reason}. Check the secret for it."""

    code = "privilege-refused"
    phase = "session"


class DeviceAsked(SSHError):
    """{host}:{port} asks “{words}”, and the command has no line to answer it. The command line was closed without an
    answer. Add the answer as a line of the command."""

    code = "device-asked"
    phase = "run"
    executed = "yes"


class LineRefused(SSHError):
    """{host}:{port} refused line {number} of the command (“{words}”); the lines after it were not sent."""

    code = "line-refused"
    phase = "run"
    executed = "yes"
