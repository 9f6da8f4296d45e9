"""
The meaning of a server's prompts: a question for the password, for a new one, or for something else.

The password is only given where a question asks for it: a server that wants a one-time code counts a wrong answer, and
may store it. So the last line of a question must have a word for "password", in one of the languages of Linux-PAM, no
word for a code, and no name of another account than the one that logs in. The words for "new" and "current" show that a
password has expired. All words are those of the catalogues of PAM and sudo. No I/O.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterable, Set

#: Bytes at the end of a question that are read: the question itself is there.
_MAX_READ = 2000


class Asks(enum.Enum):
    """What a question asks for."""

    PASSWORD = enum.auto()
    #: The same, where the password was just given: a question for a new one follows.
    OLD_PASSWORD = enum.auto()
    NEW_PASSWORD = enum.auto()
    #: The password that was just given, again: it was refused, or has to be confirmed.
    AGAIN = enum.auto()
    #: Something that is not required.
    OPTIONAL = enum.auto()
    OTHER = enum.auto()


#: Letters of scripts with spaces between words, and digits, for a set of a regular expression.
_LETTERS = r"0-9_a-z\u00aa-\u052f"


def _any_of(*words: str) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _word(*beginnings: str) -> str:
    """Words with these beginnings, but not within a longer name such as that of a host. Chinese may precede them."""
    return rf"(?<![@.{_LETTERS}-])(?:{_any_of(*beginnings)})\w*(?![\w-]|\.\w)"


# The patterns are strings, which ``re`` compiles when they are first used: that takes 10 ms and a megabyte, and many
# relays never meet such a question. Each is for text after NFKC and case folding. Words of scripts without spaces, or
# with marks within words, are found anywhere.
_PASSWORD = _any_of(
    # en de it, da nb nn, sv, nl, fi, et, cs sk, pl, hu
    "passw", r"\bpwd\b", "kennwort", "passord", "adgangskode", "kodeord", "lösenord", "wachtwoord", "salasana",
    "parool", r"\bhesl", r"\bhasł", "jelsz",
    # fr, es ca ia, pt, ro tr az bg, eo, eu, ga, id, zu, vi, sr
    "mots? de passe", "contraseñ", "contraseny", "contrasign", "palavra-passe", r"\bsenha", "parol", "şifr",
    "парол", "pasvort", "pasahitz", "focail faire", "focal faire", r"\bsandi\b", "iphasiwedi", "mật khẩu", "lozink",
    "лозинк", "slaptažod", r"\bgesl", "katalaluan", "pasfhocal", "uɛeddi", r"κωδικ\w+ πρόσβασ",
    "گذرواژه",
    # zh, ja, ko
    "密码", "密碼", "口令", "パスワード", "암호", "비밀번호",
    # he, ar, ka, and the languages of India and around
    "ססמ", "סיסמ", "كلمة السر", "كلمة سر", "كلمة المرور", "كلمة مرور", "პაროლ", "গুপ্তশব্দ", "পাসওয়ার্ড", "પાસવર્ડ",
    "शब्दकूट", "पासवर्ड", "गुप्तशब्द", "ಗುಪ್ತಪದ", "അടയാളവാക്ക്", "ପ୍ରବେଶ ସଙ୍କେତ", "ਪਾਸਵਰਡ", "රහස්පදය", "கடவுச்சொல்",
    "సంకేతపదము", "ពាក្យសម្ងាត់",
)  # fmt: skip

#: A one-time code, anywhere in the texts: the question is for that code, or the next one will be. Short names are also
#: found next to Chinese, which has no spaces.
_ONE_TIME = _any_of(
    r"\bone[- ]?time\b", r"\bsingle[- ]use\b", r"(?<![a-z0-9])[a-z]?otp(?![a-z0-9])", r"\botp-", r"\bs/?key\b",
    r"(?<![a-z0-9])(?:[2m]fa|u2f|2[- ]?step)(?![a-z0-9])", r"\b(?:two|multi|dual|zwei)[- ]?(?:factor|step|faktor)",
    r"\bpass ?codes?\b", "verification code", "authentication code",
    "動態", "动态", "一次性", "验证码", "驗證碼", "校验码", "校驗碼", "認證碼", "认证码", "验证器", "驗證器",
    "认证器",
    "双因", "雙因", "双重", "雙重", "多因", "两步", "兩步", "二次", "二级", "二級", "安全码", "临时", "臨時",
    "ワンタイム", "使い捨て", "確認コード", "認証コード", "段階", "要素",
    "일회용", "인증번호", "인증 번호", "인증 코드", "2차", "2단계", "임시",
    "einmal", "eenmalig", "engang", "engång", "kertakäyttö", "jednoraz", "jednoráz", "monouso", "usage unique",
    "solo uso", "uso único", "sol ús", "одноразов", "еднократн", "једнократн", "egyszer", "tek kullanım", "bir kez",
    "ühekord", "folosin", "unufoj", "một lần", "sekali pakai", "חד פעמי", "חד-פעמי", "لمرة واحدة", "ერთჯერად",
)  # fmt: skip
#: Words on the line of the question that make it one for something else: where a code comes from, which of several
#: passwords it is, what else may be chosen.
_NOT_THE_PASSWORD = "|".join(
    (
        _word(
            "token", "etoken", "code", "pin", "challenge", "response", "sms", "factor", "second", "2nd", "dynam",
            "dinám", "dinâm", "dinam", "динам", "temporar", "temporär", "temporal", "temporan", "temporai", "sent",
            "digits", "option", "yubikey", "securid", "authenticator", "kód", "códig", "codig", "codic", "код",
            "токен", "jeton", "characters",
            "telephone", "smartphone", "mobile", "displayed", "generated", "received", "email", "e-mail",
            "certificat", "keystore", "recovery", "emergency", "additional", "step-up", "hint", "reset", "forgot",
            "choose", "select", "number", "what", "would", "zweit", "zusätz", "segund", "secund", "provisoi",
            "reçu",
            "ricevut", "recibid", "втор", "дополн", "времен", "приложен", "смс", "телефон",
        ),
        rf"(?<![@.{_LETTERS}-])(?:apps?|phone|push|duo|grid|matrix|rsa|tan|handy)(?![{_LETTERS}]|\.\w|-(?!pass))",
        r"(?<![@.\w-])key(?!board)\w*(?![\w-]|\.\w)",
        r"\bkod(?!eord)\w*",
        # One of several, numbered; a question to be answered with yes or no
        r"passw\w*\s*#?\d",
        r"\d\s*(?:位|桁|자리)",
        r"\w\s+\w.*\?\s*$",
        r"\by(?:es)?\s*/\s*no?\b",
        _any_of(
            "令牌", "权杖", "權杖", "短信", "簡訊", "随机", "隨機", "手机", "手機", "トークン", "コード",
            "토큰", "코드", "微信", "钉钉", "邮箱", "邮件", "電郵", "证书", "證書", "u盾", "附加", "第二", "スマホ",
            "スマートフォン", "メール", "휴대", "문자", "이메일",
        ),
    )
)  # fmt: skip

_NEW = "|".join(
    (
        # Romance, Slavic and Germanic languages, fi et, eu, hu, tr az, ga, zu
        r"(?<![@.\w-])(?:nov[aeouáéýı]\w?|nuev\w+|nuov\w+|nouve\w+|nou[aă]?|neu\w{0,2}|nieuwe?|ny[ea]?|nytt|now\w{1,3}"
        r"|uus\w?|uude|berri\w*|új|yeni|nua|entsha|mới|novan?|нов\w{1,3}|жаңа|baru|nauj\w{1,3}|amaynut|tikkelt|νέ\w{1,3}"
        r")(?![\w-]|\.\w)",
        _any_of(
            "(?<!重)新", "새", "신규", "חדש", "جديد", "ახალი", "নতুন", "નવો", "नया", "नवीन", "ਨਵਾਂ", "ନୂତନ", "නව",
            "ಹೊಸ", "പുതിയ", "വീണ്ടും", "புதிய", "కొత్త", "ថ្មី",
        ),
    )
)  # fmt: skip
#: English words, before "password" only: elsewhere they may be the name of a host.
_ENGLISH_NEW = r"(?<![@.\w-])(?:new|set|create|pick|define)\s+(?:\w+\s+){0,3}passw|设置|設置|設定"
#: To type something again.
_AGAIN = "|".join(
    (
        r"(?<![@.\w-])(?:retype|re-?enter|repeat|again|verify|confirm\w*|wiederhol\w*|erneut|répét\w*|retap\w*|repit\w*"
        r"|conferm\w*|повтор\w*|подтверд\w*|ulang|ponovno|поново)(?![\w-]|\.\w)",
        _any_of("再次", "重新", "确认", "確認", "再入力", "다시", "재입력", "확인"),
    )
)  # fmt: skip
_OLD = "|".join(
    (
        r"(?<![@.\w-])(?:current|old)\)?\s+(?:\w+\s+){0,3}passw",
        # The same languages
        r"(?<![@.\w-])(?:a[ck]tual\w*|actuel\w*|attual\w*|atual|aktuell?\w*|aktuálne|cari|současn\w*|nuværende"
        r"|nåværende|nuvarande|noverande|nykyinen|jelenlegi|ағымдағы|huidige?|obecne|curent\w*|текущ\w*|mevcut"
        r"|поточн\w*|nastoyashta|настоящ\w*|stávající|trenutn\w|тренутн\w|dabartin\w*|reatha|saat ini|semasa|amiran"
        r"|τρέχ\w*)(?![\w-]|\.\w)",
        _any_of("当前", "目前", "現在", "现在", "현재", "נוכחי", "ਮੌਜੂਦਾ", "ସାମ୍ପ୍ରତିକ", "الحالي", "მიმდინარე"),
    )
)  # fmt: skip

#: Announces that a password has expired: pam_unix, Solaris, HP-UX, AIX, Windows. A notice that passwords are to be
#: changed now and then does not.
_EXPIRED = (
    rb"(?i)passw\w{1,20} (?:has |have )?expired"
    rb"|(?:required to|must|have to) change your passw\w{1,20}\b"
    rb"(?!,?\s+(?:now and|from time|regularly|periodically|frequently|often|every|each|at least|once|within|in \d|if))"
    rb"|change your passw\w{1,20}\s+(?:now(?! and)|imm)"
)

_FIRST_FACTOR = r"\s*first factor\b"  # what SSSD calls the password where there is a second one
_OPTIONAL = r"\(optional\)"
#: A name that is not part of a longer one; it may have a domain and a backslash before it.
_IN_NAME = r"a-z0-9_.+$%\\\u00df-\u024f\u0400-\u04ff-"
_NAME = rf"(?<![{_IN_NAME}@])(?![.+$%\\-])[{_IN_NAME}]+"
_FOR = _any_of(
    "for", "für", "pour", "para", "per a", "per", "voor", "för", "za", "за", "для", "pentru", "untuk", "dành cho",
    "por", "par", "pre", "pro", "მომხმარებლისთვის",
)  # fmt: skip
#: Words that precede a name at the end of a line; elsewhere they precede many other things.
_OF = _any_of(
    "of", "von", "van", "de", "di", "do", "da", "del", "dla", "lui", "của", "af", "av", "до", "користувача",
    "użytkownika", "používateľa", "uživatele", "пользователя", "корисника",
)  # fmt: skip
_USER = _any_of("user", "the", "account", "principal", "benutzer", "používateľa", "пользователя", "корисника", "l'")
#: How a line names an account, in the languages of sudo: a user at a host, as some servers write before or in their
#: questions; whose password it is; for whom.
_ACCOUNT = "|".join(
    (
        rf"(?<![{_IN_NAME}])([{_IN_NAME}]*)@[a-z0-9_.-]*",
        rf"({_NAME})(?:['’]s\b| ?[的の]|-ის\b|-käyttäjän\b|,(?= salasana)|(?= (?:jelszava|암호|비밀번호)))",
        rf"({_NAME}?)s(?= (?:adgangskode|kodeord|passord|lösenord)\b)",
        rf"(?:(?<=парол[ья]\s)|(?<=sandi\s)|(?<=گذرواژه\u0654\s))({_NAME})(?=\W*$)",
        rf"(?:用户|用戶|帐号|账号|帳號|ユーザー|사용자) ?({_NAME})",
        rf"(?<!\w)(?:{_FOR})\s+(?:(?:{_USER})\s+)*['\"`‘“«»„]?({_NAME})",
        rf"(?<!\w)(?:{_OF})\s+['\"`‘“«»„]?({_NAME})(?=\W*$)",
    )
)
#: Words in the place of a name that are not names: who logs in, where, and what for.
_NO_NAME = frozenset((
    "user", "users", "username", "account", "login", "logon", "ssh", "sshd", "sftp", "host", "system", "server",
    "machine", "computer", "network", "domain", "access", "session", "ldap", "kerberos", "krb5", "windows", "unix",
    "linux", "nis", "radius", "tacacs", "tacacs+", "ad", "active", "directory", "pam", "local", "remote", "this",
    "that", "the", "your", "you", "yourself", "it", "authentication", "authorization", "verification",
    "identification", "benutzer", "konto", "anmeldung", "zugang", "zugriff", "ihr", "ihre", "ihren", "dein",
    "deinen", "das", "den", "dem", "utilisateur", "compte", "connexion", "accès", "votre", "usuario", "usuário",
    "cuenta", "conta", "acceso", "acesso", "su", "sua", "tu", "la", "el", "utente", "accesso", "il", "lo",
    "gebruiker", "gebruikers", "användare", "användaren", "användarens", "bruger", "bruker", "пользователя",
    "входа", "доступа", "системы", "вашей", "користувача", "użytkownika", "konta", "používateľa", "uživatele",
    "účtu", "anda", "pengguna", "akun", "baru", "passe",
))  # fmt: skip
#: A name with so many dots names a host.
_DOTS_OF_HOST = 2
#: Accounts and things with a password of their own, unless the user has that name.
_PRIVILEGED = "|".join(
    (
        rf"(?<![@.{_LETTERS}-])(?:root|superuser|admin\w*|enable|privileged|supervisor|master|guest|bios|boot|luks"
        r"|disk|database|db|mysql|postgres\w*|oracle|vault|wallet|proxy|wifi|backup|archive|another|other|superutilisateur"
        r"|správc\w*|админ\w*|суперпольз\w*)(?![\w-]|\.\w)",
        r"(?<![a-z0-9])(?:root|admin|administrator|enable)(?![a-z0-9])",  # beside Chinese, which leaves no space
        _any_of(
            "管理员", "管理員", "超级用户", "超級使用者", "特权", "特權", "数据库", "資料庫", "管理者", "特権",
            "データベース", "관리자", "데이터베이스",
        ),
    )
)  # fmt: skip
#: A line that asks for something, although the answer may be given on a later line.
_ASKING = "|".join(
    (
        rf"(?<![@.{_LETTERS}-])(?:enter|type|input|provide|supply|choose|set|create|pick|eingeben|gib|geben|wählen"
        r"|saisi\w*|entrez|tapez|choisi\w*|introduzca|ingrese|escriba|elija|inseri\w*|immett\w*|digit\w*|scegli\w*"
        r"|введите|задайте|придумайте|zadejte|wprowadź|podaj|voer|kies|ange|välj)(?![\w-]|\.\w)",
        _any_of("输入", "輸入", "设置", "設置", "設定", "入力", "입력"),
    )
)

#: Invisible characters within words of some scripts.
_UNSEEN: dict[int, str | None] = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
#: Hyphens that are not on keyboards.
_UNSEEN |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013"), "-")
#: Spaces between Chinese characters that make a line as wide as the one above.
_WIDE_GAP = r"(?<=[\u4e00-\u9fff])[ \t]+(?=[\u4e00-\u9fff])"


def what_it_asks(prompt: bytes, before: Iterable[bytes], username: str) -> Asks:
    """
    Find out what a question asks for.

    :param prompt: the question, in UTF-8 (RFC 4256, section 3.2).
    :param before: the texts above it: the name and the instruction. If the question has no words, the last of them is
        the question.
    :param username: who is logging in. The question may contain it, and it may be any word.
    """
    own = _own_names(username)
    lines = [line for text in (*before, prompt) for line in _lines(text)]
    if not lines:
        return Asks.OTHER
    # Lines above that ask something are questions, too.
    questions = [line for line in lines[:-1] if re.search(_ASKING, line) or re.match(_PASSWORD, line.strip())]
    questions.append(lines[-1])
    if any(re.search(_PASSWORD, line) and _names_another(line, own) for line in questions):
        return Asks.OTHER
    lines = [_without_names(line, own) for line in lines]
    questions = [_without_names(line, own) for line in questions]
    line = questions[-1]
    if re.match(_FIRST_FACTOR, line):
        return Asks.PASSWORD
    if re.search(_OPTIONAL, line):
        return Asks.OPTIONAL
    if not re.search(_PASSWORD, line) or _any(_NOT_THE_PASSWORD, questions) or _any(_ONE_TIME, lines):
        return Asks.OTHER
    if any(
        re.search(_PASSWORD, each) and (re.search(_ENGLISH_NEW, each) or re.search(_NEW, each)) for each in questions
    ):
        return Asks.NEW_PASSWORD
    if re.search(_AGAIN, line):
        return Asks.AGAIN
    return Asks.OLD_PASSWORD if re.search(_OLD, line) else Asks.PASSWORD


def tells_of_expiry(text: bytes) -> bool:
    """Whether *text*, a question or one above it, says that the password has expired."""
    return re.search(_EXPIRED, text) is not None


def _any(pattern: str, lines: Iterable[str]) -> bool:
    return any(re.search(pattern, line) for line in lines)


def _lines(text: bytes) -> list[str]:
    """The lines with words, made comparable."""
    shown = _comparable(text[-_MAX_READ:].decode("utf-8", "replace"))
    return [line for line in shown.splitlines() if any(char.isalpha() for char in line)]


def _own_names(username: str) -> Set[str]:
    """How a question may name the user who logs in: also without the domain."""
    name = _comparable(username)
    return {name, *re.split(r"[\\/@%+]", name)} - {""}


def _names_another(line: str, own: Set[str]) -> bool:
    """Whether *line* names another account."""
    for found in re.finditer(_ACCOUNT, line):
        name = _name_in(found)
        known = not name or name in own or name.rpartition("\\")[2] in own or name in _NO_NAME
        if not known and name.count(".") < _DOTS_OF_HOST:
            return True
    return any(found[0] not in own for found in re.finditer(_PRIVILEGED, line))


def _without_names(line: str, own: Set[str]) -> str:
    """*line* without the user's own name and without hosts: they may be any word."""
    return re.sub(_ACCOUNT, lambda found: "" if "@" in found[0] or _name_in(found) in own else found[0], line)


def _name_in(found: re.Match[str]) -> str:
    name: str = found[found.lastindex or 0]
    return name.rstrip(".")


def _comparable(text: str) -> str:
    shown = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_UNSEEN)
    return re.sub(_WIDE_GAP, "", shown)
