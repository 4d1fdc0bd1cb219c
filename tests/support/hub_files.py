"""The small folder that the tests of the loopback Hub upload: regular files, one by LFS, an empty
one.
"""

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Birds\n",
    "config.json": b"{}",
    "weights/model.safetensors": bytes(range(256)) * 40,
    "weights/notes.txt": b"",
}


def write_files(folder):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
