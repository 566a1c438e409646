r"""Read the lines of a log, whatever it was copied through, in bounded memory.

A log comes coloured, as JSON of a container or of journald, quoted, wrapped and encoded by mail,
with prefixes, with NUL, CRLF and bytes that are not UTF-8, with errors in another language. The
lines that come out have none of that, and no character that moves a terminal's cursor.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

CHUNK = 1 << 20
LONGEST = 8192  # characters of a line that are kept

ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]?"
    r"|(?:\^\[|#033|\\x1b|\\u001b|\\033|\\e)\[[0-9;]*[A-Za-z]|\[(?:[01];)?(?:[39][0-7]|[01])m(?=\S)|\[0?m$",
    re.I | re.M,
)
ESCAPED = ("\x1b", "\x9b", "[0m", "[m", "^[[", "#033", r"\x1b", r"\u001b", r"\033", r"\e[")
SOFT_BREAK = re.compile(r"=\r?\n(?:(?:> ?)+(?=\S))?")
CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160))) | {
    0xA0: " ",
    0x2018: "'",
    0x2019: "'",
    0x201C: '"',
    0x201D: '"',
    0x200B: None,
    0xFEFF: None,
    **dict.fromkeys((*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))),
}
QUOTED = re.compile(r"^(?:[>|] ?)+", re.M)
CRI = re.compile(r"^\S+Z? std(?:out|err) ([FP]) (.*)")
KEYS = ("log", "MESSAGE", "message", "msg", "text", "line", "body", "content")
BROKEN_JSON = re.compile(r'"(?:log|MESSAGE|message|msg)"\s*:\s*"((?:[^"\\]|\\.)*)')
ENTITIES = {
    "&#39;": "'",
    "&#x27;": "'",
    "&apos;": "'",
    "&quot;": '"',
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": " ",
    "&amp;": "&",
}

# A line with one of these begins a record; one without may continue the line before.
RECORD = re.compile(
    r"^\W*(?:EAL\b|PANIC\b|Cause\b|[\w./-]+(?:\[\d+\])?: |\d{4}-\d\d|[A-Z][a-z]{2} +\d+ \d\d:"
    r"|[\[{]|\d\d:\d\d:\d\d)"
)

# C's error words as other languages' C libraries have them.
LANGUAGES = {
    "Permission denied": "Keine Berechtigung|Permission non accordée|Permiso denegado|权限不够"
    "|許可がありません|Отказано в доступе|Permesso negato|Permissão negada|허가 거부",
    "Operation not permitted": "Die Operation ist nicht erlaubt|Opération non permise"
    "|Operación no permitida|不允许的操作|許可されていない操作です|Операция не позволена"
    "|Operazione non permessa|Operação não permitida",
    "Cannot allocate memory": "Nicht genügend Hauptspeicher verfügbar"
    "|Kann keinen Speicher allozieren|Der Speicher kann nicht allokiert werden"
    "|Impossible d'allouer de la mémoire|Ne peut allouer de la mémoire|No se pudo asignar memoria"
    "|无法分配内存|メモリを確保できません|Не удалось выделить память|Impossibile allocare memoria"
    "|Não foi possível alocar memória",
    "No such file or directory": "Datei oder Verzeichnis nicht gefunden"
    "|Aucun fichier ou dossier de ce (?:type|nom)|No existe el (?:archivo|fichero) o el directorio"
    "|没有那个文件或目录|そのようなファイルやディレクトリはありません|Нет такого файла или каталога"
    "|File o directory non esistente|Arquivo ou diretório inexistente"
    "|그런 파일이나 디렉터리가 없습니다",
    "Too many open files": "Zu viele offene Dateien|Trop de fichiers ouverts"
    "|Demasiados (?:archivos|ficheros) abiertos|打开的文件过多|打开的文件太多"
    "|開いているファイルが多すぎます|Слишком много открытых файлов|Troppi file aperti",
    "No space left on device": "Auf dem Gerät ist kein Speicherplatz mehr verfügbar"
    "|Aucun espace disponible sur le périphérique|No queda espacio en el dispositivo"
    "|设备上没有空间|デバイスに空き領域がありません|На устройстве не осталось свободного места",
    "Read-only file system": "Das Dateisystem ist nur lesbar|只读文件系统"
    "|Système de fichiers accessible en lecture seulement|Sistema de (?:archivos|ficheros) de sólo"
    " lectura|読み込み専用ファイルシステムです|Файловая система доступна только для чтения",
    "Connection refused": "Verbindungsaufbau abgelehnt|Connexion refusée|Conexión rehusada|拒绝连接"
    "|接続を拒否されました|В соединении отказано",
    "Bus error": "Bus-Zugriffsfehler|Erreur du bus|Error en el bus|总线错误|バスエラー|Ошибка шины",
    "Killed": "Getötet|Processus arrêté|已杀死|已终止|強制終了|Убито",
    "Segmentation fault": "Speicherzugriffsfehler|Erreur de segmentation|段错误"
    "|Violación de segmento|Ошибка сегментирования",
}
FOREIGN = re.compile("|".join(f"({v})" for v in LANGUAGES.values()))
ASCII_FOREIGN = (
    "Keine Ber",
    "ist nicht",
    "Permiso",
    "Permesso",
    "Kann keinen",
    "Der Speicher",
    "Impossib",
    "No se pudo",
    "Ne peut",
    "Datei oder",
    "Aucun fichier",
    "No existe",
    "File o dir",
    "Zu viele",
    "Trop de",
    "Demasiados",
    "Troppi",
    "Auf dem",
    "Das D",
    "No queda",
    "Aucun espace",
    "Verbindungs",
    "Connexion",
    "Bus-Zug",
    "Erreur d",
    "Error en el bus",
    "Speicherzug",
    "Operazione",
)
CUT = re.compile(r"(?:\.\.\.|…|[>$])?$")
FULL = (*LANGUAGES, "Cannot get hugepage information", "Cannot init memory", "Cannot init config")


def english(line: str) -> str:
    """Return the line with C's error words in English."""
    if line.isascii() and not any(w in line for w in ASCII_FOREIGN):
        return line
    return FOREIGN.sub(lambda m: list(LANGUAGES)[(m.lastindex or 1) - 1], line)


def completed(line: str) -> str:
    """Return the line with its last words as EAL has them, if the line was cut within them."""
    text = CUT.sub("", line).rstrip()
    for words in (w for w in FULL if w[:10] in text):
        for n in range(len(words) - 1, 9, -1):
            if text.endswith(words[:n]) and text[:-n][-2:] in (": ", ""):
                return text[:-n] + words
    return line


def lines(stream: BinaryIO | Iterable[str]) -> Iterator[str]:
    """Yield the lines of a binary stream, or of a list, as an EAL printed them."""
    partial = ""
    for text in _chunks(stream):
        for line in _plain(text).split("\n"):
            line = line[:LONGEST]
            if '"' in line and (found := _json(line)) is not None:
                whole = found.endswith("\n") or '"log"' not in line
                partial += found
            elif " std" in line and (m := CRI.match(line)):
                whole = m[1] == "F"
                partial += m[2]
            else:
                if partial:
                    yield from _split(partial)
                    partial = ""
                yield line.rstrip()
                continue
            if whole or len(partial) > LONGEST:
                yield from _split(partial[:LONGEST])
                partial = ""
    if partial:
        yield from _split(partial)


def _chunks(stream: BinaryIO | Iterable[str]) -> Iterator[str]:
    """Yield text that ends at the end of a line."""
    read: Any = getattr(stream, "read", None)
    if read is None:
        yield "\n".join(stream)  # type: ignore[arg-type]
        return
    rest = b""
    while data := read(CHUNK):
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            data = data.replace(b"\0", b"")[2:]
        head, newline, tail = data.rpartition(b"\n")
        if newline and not head.endswith((b"=", b"=\r")):
            yield (rest + head).decode("utf-8", "replace")
            rest = tail[:LONGEST]
        elif len(rest) < CHUNK:
            rest += data
    if rest:
        yield rest.decode("utf-8", "replace")


def _plain(text: str) -> str:
    """Return text without escape sequences, quotes of mail, encodings, control characters."""
    if "=\n" in text or "=\r\n" in text or "=3D" in text:
        text = SOFT_BREAK.sub("", text).replace("=3D", "=").replace("=20\n", "\n")
        text = text.replace("=E2=80=98", "'").replace("=E2=80=99", "'").replace("=C2=A0", " ")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if any(mark in text for mark in ESCAPED):
        text = ESCAPES.sub("", text)
    if "#012" in text:
        text = text.replace("#012", "\n").replace("#015", "").replace("#011", " ")
    if "&" in text:
        for name, character in ENTITIES.items():
            text = text.replace(name, character)
    if not text.isascii() or not text.replace("\n", "").isprintable():
        text = text.translate(CONTROLS).replace("\t", " ")
    if text[:1] in ">|" or "\n>" in text or "\n|" in text:
        text = QUOTED.sub("", text)
    return text


def _json(line: str) -> str | None:
    """Return the message of a line that is, or contains, a JSON object; None for others."""
    start = line.find('{"')
    if start < 0:
        start = line.find('{ "')
    if start < 0:
        m = BROKEN_JSON.search(line)
        return _unescaped(m[1]) if m else None
    import json

    try:
        found, _ = json.JSONDecoder().raw_decode(line, start)
    except (ValueError, RecursionError):
        m = BROKEN_JSON.search(line)
        return _unescaped(m[1]) if m else None
    for key in KEYS:
        value = found.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(b, int) and 0 <= b < 256 for b in value):
            return bytes(value).decode("utf-8", "replace")  # journald's form of a coloured line
    return None


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace('\\"', '"').replace("\\u001b", "\x1b")


def _split(text: str) -> Iterator[str]:
    for line in _plain(text).split("\n"):
        if line:
            yield line.rstrip()
