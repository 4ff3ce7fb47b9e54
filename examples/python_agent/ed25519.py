"""Ed25519 signatures, after the reference code of RFC 8032, section 6.

Slow (some milliseconds a signature) and not in constant time: enough for one
signature a connection on a machine of one's own. Where the package
`cryptography` is at hand, its `Ed25519PrivateKey.sign` gives the same bytes.
"""

from hashlib import sha512

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME

# Points are (X, Y, Z, T) with x = X/Z, y = Y/Z and x*y = T/Z.
BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
BASE_Y = 4 * pow(5, PRIME - 2, PRIME) % PRIME
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % PRIME)


def _add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % PRIME
    b = (p[1] + p[0]) * (q[1] + q[0]) % PRIME
    c = 2 * p[3] * q[3] * D % PRIME
    d = 2 * p[2] * q[2] % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME)


def _multiply(scalar, point):
    product = (0, 1, 1, 0)
    while scalar > 0:
        if scalar & 1:
            product = _add(product, point)
        point = _add(point, point)
        scalar >>= 1
    return product


def _compress(point):
    inverse = pow(point[2], PRIME - 2, PRIME)
    x, y = point[0] * inverse % PRIME, point[1] * inverse % PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _expand(secret):
    digest = sha512(secret).digest()
    scalar = int.from_bytes(digest[:32], "little")
    scalar &= (1 << 254) - 8
    scalar |= 1 << 254
    return scalar, digest[32:]


def public_key(secret: bytes) -> bytes:
    """The 32 bytes that belong to the 32 bytes of a private key."""
    return _compress(_multiply(_expand(secret)[0], BASE))


def sign(secret: bytes, message: bytes) -> bytes:
    """The 64 bytes of a signature of `message`."""
    scalar, prefix = _expand(secret)
    public = _compress(_multiply(scalar, BASE))
    nonce = int.from_bytes(sha512(prefix + message).digest(), "little") % ORDER
    first = _compress(_multiply(nonce, BASE))
    challenge = int.from_bytes(sha512(first + public + message).digest(), "little") % ORDER
    second = (nonce + challenge * scalar) % ORDER
    return first + second.to_bytes(32, "little")
