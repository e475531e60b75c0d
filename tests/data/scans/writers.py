"""Writers of scans that share no code with the readers, for round trips and for files that lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["lzf_compress", "pcd_bytes", "ply_bytes", "write_bare_e57", "write_e57", "write_las"]

_PLY = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort", "i4": "int", "u4": "uint"}


def ply_bytes(columns: dict[str, np.ndarray], kind: str = "binary_little_endian", count: int | None = None, tail: str = "", body: bytes = b"") -> bytes:
    """Vertices with the given properties; `tail` and `body` are further elements."""
    n = len(next(iter(columns.values())))
    head = f"ply\nformat {kind} 1.0\ncomment made by a test\nelement vertex {n if count is None else count}\n"
    head += "".join(f"property {_PLY[v.dtype.str[1:]]} {k}\n" for k, v in columns.items()) + tail + "end_header\n"
    if kind == "ascii":
        rows = "\n".join(" ".join(repr(v.item()) for v in row) for row in zip(*columns.values(), strict=True))
        return head.encode() + rows.encode() + b"\n" + body
    order = "<" if kind == "binary_little_endian" else ">"
    table = np.zeros(n, [(k, order + v.dtype.str[1:]) for k, v in columns.items()])
    for k, v in columns.items():
        table[k] = v
    return head.encode() + table.tobytes() + body


def lzf_compress(data: bytes) -> bytes:
    """Greedy: the last place of each three bytes is remembered."""
    out, last, literals, at = bytearray(), {}, bytearray(), 0

    def flush() -> None:
        for i in range(0, len(literals), 32):
            piece = literals[i : i + 32]
            out.append(len(piece) - 1)
            out.extend(piece)
        literals.clear()

    while at < len(data):
        key = data[at : at + 3]
        back = at - last.get(key, -1) - 1 if key in last else 8192
        last[key] = at
        length = 0
        if len(key) == 3 and back < 8192:
            while length < 264 and at + length < len(data) and data[at + length] == data[at + length - back - 1]:
                length += 1
        if length < 3:
            literals.append(data[at])
            at += 1
            continue
        flush()
        short = length - 2
        out.append((min(short, 7) << 5) | back >> 8)
        if short >= 7:
            out.append(short - 7)
        out.append(back & 255)
        at += length
    flush()
    return bytes(out)


def pcd_bytes(
    columns: dict[str, np.ndarray], kind: str = "binary", viewpoint: str = "0 0 0 1 0 0 0", points: int | None = None, size: tuple[int, int] | None = None
) -> bytes:
    n = len(next(iter(columns.values())))
    width, height = size or (n if points is None else points, 1)
    letters = {"f": "F", "i": "I", "u": "U"}
    head = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
    head += f"FIELDS {' '.join(columns)}\nSIZE {' '.join(str(v.itemsize) for v in columns.values())}\n"
    head += f"TYPE {' '.join(letters[v.dtype.kind] for v in columns.values())}\nCOUNT {' '.join('1' for _ in columns)}\n"
    head += f"WIDTH {width}\nHEIGHT {height}\nVIEWPOINT {viewpoint}\nPOINTS {n if points is None else points}\nDATA {kind}\n"
    if kind == "ascii":
        return head.encode() + "\n".join(" ".join(repr(v.item()) for v in row) for row in zip(*columns.values(), strict=True)).encode() + b"\n"
    if kind == "binary":
        table = np.zeros(n, [(k, v.dtype.str) for k, v in columns.items()])
        for k, v in columns.items():
            table[k] = v
        return head.encode() + table.tobytes()
    plain = b"".join(v.tobytes() for v in columns.values())
    packed = lzf_compress(plain)
    return head.encode() + len(packed).to_bytes(4, "little") + len(plain).to_bytes(4, "little") + packed


def write_las(path: Path, xyz: np.ndarray, offset: np.ndarray, scale: float = 0.001, point_format: int = 3, **dimensions: np.ndarray) -> None:
    import laspy

    header = laspy.LasHeader(point_format=point_format, version="1.4" if point_format > 5 else "1.2")
    header.offsets, header.scales = offset, np.full(3, scale)
    data = laspy.LasData(header)
    data.x, data.y, data.z = xyz.T
    for name, values in dimensions.items():
        data[name] = values
    data.write(str(path))


def write_e57(path: Path, scans: list[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]]) -> None:
    """Each scan: xyz in its own frame, quaternion w x y z, translation, further fields."""
    import pye57

    with pye57.E57(str(path), mode="w") as file:
        for xyz, rotation, translation, more in scans:
            data = {f"cartesian{a}": np.ascontiguousarray(xyz[:, i]) for i, a in enumerate("XYZ")} | more
            file.write_scan_raw(data, rotation=rotation, translation=translation)


def write_bare_e57(path: Path, scans: list[dict[str, np.ndarray]], limit: int | None = None) -> None:
    """Scans without a pose, of any fields: floats as doubles, integers in as many bits as they need; limit: colorLimits' maximum."""
    import pye57
    from pye57 import libe57

    with pye57.E57(str(path), mode="w") as file:
        image = file.image_file
        for k, columns in enumerate(scans):
            node, row = libe57.StructureNode(image), libe57.StructureNode(image)
            node.set("guid", libe57.StringNode(image, f"{{{k}}}"))
            if limit is not None:
                limits = libe57.StructureNode(image)
                limits.set("colorRedMaximum", libe57.IntegerNode(image, limit))
                node.set("colorLimits", limits)
            buffers = libe57.VectorSourceDestBuffer()
            for name, values in columns.items():
                low, high = values.min().item(), values.max().item()
                row.set(name, libe57.IntegerNode(image, low, low, high) if values.dtype.kind in "iu" else libe57.FloatNode(image, low, libe57.E57_DOUBLE, low, high))
                buffers.append(libe57.SourceDestBuffer(image, name, values, len(values), True, True))
            points = libe57.CompressedVectorNode(image, row, libe57.VectorNode(image, True))
            node.set("points", points)
            file.data3d.append(node)
            writer = points.writer(buffers)
            writer.write(len(columns["cartesianX" if "cartesianX" in columns else "sphericalRange"]))
            writer.close()
