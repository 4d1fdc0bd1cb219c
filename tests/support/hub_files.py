"""The small folder that tests of the loopback Hub upload; one file goes by LFS, one is empty."""

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
