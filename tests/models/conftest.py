"""Tests over all families of base models, and a trained adapter of a tiny base."""

import functools

import pytest


def pytest_generate_tests(metafunc):
    """A test that takes `family` runs once for each of them, if it does not name some itself."""
    own = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "family" in metafunc.fixturenames and "family" not in own:
        from sgdmix_hub.models.bases.families import FAMILIES

        names = [family.name for family in FAMILIES]
        metafunc.parametrize("family", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def family(request):
    from sgdmix_hub.models.bases.families import BY_NAME

    return BY_NAME[request.param]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """`saved(pipeline)`: the folder of a base."""

    def save(pipeline):
        folder = tmp_path_factory.mktemp("base") / "base"
        pipeline.save_pretrained(folder, safe_serialization=True)
        return folder

    return save


@pytest.fixture(scope="session")
def trained(birds, tmp_path_factory):
    """`trained(base)`: an adapter after two steps; two vectors a class, an alpha not the rank."""
    from trainings import adapter_settings, train

    def train_on(base):
        return train(
            adapter_settings(
                birds,
                base,
                tmp_path_factory.mktemp("adapter") / "adapter",
                num_vectors=2,
                num_train_samples=4,
                lora_alpha=6,
                learning_rate=0.05,
                token_learning_rate=0.05,
            )
        )

    return train_on


@pytest.fixture(scope="session")
def base_of(saved):
    """`base_of(family's name)`: the folder of its tiny base, made once."""
    from tiny_bases import BUILD

    return functools.cache(lambda name: saved(BUILD[name]()))


@pytest.fixture(scope="session")
def adapter_of(base_of, trained):
    """`adapter_of(family's name)`: an adapter of that base, trained once."""
    return functools.cache(lambda name: trained(base_of(name)))
