#!/usr/bin/python3
"""Signs a command for a gateway or a group: what any JOSE library can do, in PyJWT's words.

The token is printed on stdout, and on stderr the line that sends it. `fieldmedic send` does both and shows what comes
of it; this is for who makes commands in a program of their own (docs/contract.md, "Commands"). Debian and Ubuntu have
what it needs: python3-jwt and python3-cryptography.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

EXAMPLES = """examples:
  sign.py ops-1.key --aud gw-0001 ping
  sign.py ops-1.key --aud gw-0001 restart_unit unit=app.service
  sign.py ops-1.key --aud group:canary --expires 3600 run runbook=app-log args='["app.service", "-1h", "now"]'
  sign.py ops-1.key --aud gw-0001 ping | mosquitto_pub -h broker.example -q 1 -t fieldmedic/gw-0001/commands -l
"""

# What the contract has as text stays text: release 1.10 is no number.
TEXT_ARGS = ("command_id", "interface", "level", "runbook", "target", "to", "unit")
# A gateway takes no more.
TOKEN_MAX = 32 * 1024


def claims_of(args: argparse.Namespace) -> dict[str, Any]:
    now = int(time.time())
    command: dict[str, Any] = {"name": args.name, "args": dict(args.args)}
    if args.timeout is not None:
        command["timeout_s"] = args.timeout
    # A gateway does what has one id once, however often it comes: a command that is meant anew needs a new one.
    jti = args.id or f"{args.name}-{secrets.token_hex(8)}"
    claims = {"aud": args.aud, "jti": jti, "iat": now, "exp": now + args.expires, "cmd": command}
    if args.nonce:
        claims["nonce"] = args.nonce
    return claims


def key_in(path: Path) -> Ed25519PrivateKey:
    """Read here: of a public key, or one with a passphrase, PyJWT doesn't say what it is."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"it is an {type(key).__name__}")
    return key


def topic_of(prefix: str, audience: str) -> str:
    group = audience.removeprefix("group:")
    return f"{prefix}/{audience}/commands" if group == audience else f"{prefix}/groups/{group}/commands"


def argument(text: str) -> tuple[str, Any]:
    """ARG=VALUE, where a number, a flag or a list is one."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not ARG=VALUE, such as unit=app.service")
    try:
        read = value if key in TEXT_ARGS else json.loads(value)
    except ValueError:
        read = value
    try:
        # Python reads NaN, Infinity and 1e999, and would write what no gateway reads.
        json.dumps(read, allow_nan=False)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}: JSON has finite numbers only") from error
    return key, value if read is None or (key == "args" and not isinstance(read, list)) else read


def arguments() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=description, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("key", type=Path, help="the private key, as `fieldmedic keygen` makes it")
    parser.add_argument("name", metavar="NAME", help="ping, restart_unit, reboot … (docs/contract.md)")
    parser.add_argument("args", nargs="*", type=argument, metavar="ARG=VALUE", help="the command's arguments")
    parser.add_argument("--aud", required=True, metavar="DEVICE|group:NAME", help="who shall obey")
    parser.add_argument("--kid", help="the key's name on the gateways (default: the file's name without its ending)")
    parser.add_argument("--id", help="the command's id (default: a random one)")
    valid = "how long it is valid (default: %(default)s)"
    parser.add_argument("--expires", type=int, default=600, metavar="SECONDS", help=valid)
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="how long it may take on the gateway")
    parser.add_argument("--nonce", help="of the retained presence: needed where the gateway's clock isn't trusted")
    parser.add_argument("--topic-prefix", default="fieldmedic", help="of the fleet (default: %(default)s)")
    args = parser.parse_intermixed_args()
    keys = [key for key, _ in args.args]
    for key in keys:
        # Which of the two was meant can't be told.
        if keys.count(key) > 1:
            parser.error(f"the argument {key!r} stands twice: give it once")
    return args


def main() -> int:
    args = arguments()
    claims = claims_of(args)
    kid = args.kid or args.key.stem
    try:
        token = jwt.encode(claims, key_in(args.key), algorithm="EdDSA", headers={"kid": kid})
    except OSError as error:
        print(f"sign.py: {args.key} can't be read: {error.strerror or error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        print(f"sign.py: {args.key} is no private Ed25519 key in PEM without a passphrase: {error}", file=sys.stderr)
        return 2
    if len(token) > TOKEN_MAX:
        print(f"sign.py: the token has {len(token)} B; gateways take at most {TOKEN_MAX} B", file=sys.stderr)
        return 2
    print(token)
    topic = topic_of(args.topic_prefix, args.aud)
    send = ["mosquitto_pub", "-V", "5", "-h", "BROKER", "-q", "1", "-t", topic, "-m", token]
    print(f"{claims['jti']} is sent by: {shlex.join(send)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
