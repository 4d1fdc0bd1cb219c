"""Which files a repository keeps by LFS, and which it ignores: .gitattributes and .gitignore."""

from fnmatch import fnmatch

REGULAR_LIMIT = 10 * 1024 * 1024
# What the Hub puts into new repositories.
LFS_PATTERNS = (
    *(
        "*.7z",
        "*.arrow",
        "*.bin",
        "*.bz2",
        "*.ckpt",
        "*.ftz",
        "*.gz",
        "*.h5",
        "*.joblib",
        "*.lfs.*",
        "*.mlmodel",
        "*.model",
        "*.msgpack",
    ),
    *(
        "*.npy",
        "*.npz",
        "*.onnx",
        "*.ot",
        "*.parquet",
        "*.pb",
        "*.pickle",
        "*.pkl",
        "*.pt",
        "*.pth",
        "*.rar",
        "*.safetensors",
    ),
    *(
        "saved_model/**/*",
        "*.tar.*",
        "*.tar",
        "*.tflite",
        "*.tgz",
        "*.wasm",
        "*.xz",
        "*.zip",
        "*.zst",
        "*tfevents*",
    ),
)
MEDIA_PATTERNS = (
    *("*.pcm", "*.sam", "*.raw", "*.aac", "*.flac", "*.mp3", "*.ogg", "*.wav", "*.mp4", "*.webm"),
    *("*.bmp", "*.gif", "*.png", "*.tiff", "*.jpg", "*.jpeg", "*.webp"),
)


def first_attributes(repo_type) -> bytes:
    """The .gitattributes of a new repository: datasets keep images and sounds by LFS too."""
    patterns = LFS_PATTERNS + (MEDIA_PATTERNS if repo_type == "dataset" else ())
    return "".join(
        f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns
    ).encode()


def upload_mode(attributes, path, sample, size):
    """How the Hub wants a file: listed, binary and large ones by LFS, empty ones never."""
    lines = [line.split() for line in attributes.splitlines() if line.strip()]
    listed = any(matches(path, pattern) for pattern, *settings in lines if "filter=lfs" in settings)
    return "lfs" if size > 0 and (listed or b"\0" in sample or size > REGULAR_LIMIT) else "regular"


def is_ignored(ignore, path):
    """Whether a .gitignore matches a file or a parent folder; negated patterns do not count."""
    parts = path.split("/")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    patterns = [
        line.strip().rstrip("/")
        for line in ignore.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return any(matches(name, pattern) for pattern in patterns for name in above)


def matches(path, pattern):
    """A pattern with a slash is one of whole paths, one without of names in any folder."""
    return (
        fnmatch(path, pattern.lstrip("/"))
        if "/" in pattern
        else fnmatch(path.rpartition("/")[2], pattern)
    )
