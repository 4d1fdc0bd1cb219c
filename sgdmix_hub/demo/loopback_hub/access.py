"""Who may read and write what: accounts, and the checks in front of every call."""

from dataclasses import dataclass

from .http import HubError, json_response


@dataclass(frozen=True)
class Account:
    """Who a token stands for, and what it may do."""

    user: str
    organizations: tuple[str, ...] = ()  # where the user may write
    may_write: bool = True
    readable: tuple[str, ...] = ()  # organizations where the user has the role "read"
    # A fine-grained token: the only repositories that it may write to; it may create none.
    only: tuple[str, ...] | None = None

    @property
    def namespaces(self):
        """Where the account sees private repositories."""
        return {self.user, *self.organizations, *self.readable}

    @property
    def role(self):
        if self.only is not None:
            return "fineGrained"
        return "write" if self.may_write else "read"

    def may_write_to(self, namespace, repo_id=None):
        """Whether the account may write to a repository, or make one when there is no `repo_id`."""
        return (
            self.may_write
            and namespace in (self.user, *self.organizations)
            and (self.only is None or repo_id in self.only)
        )


def find_repository(hub, request, repo_type, repo_id):
    """The repository of a read-only call.

    As on the Hub, a repository that may not be read looks like one that does not exist.
    """
    repository = hub.repositories.get((repo_type, repo_id))
    if repository is None or not may_see(request.account, repository):
        if request.account is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repository


def may_see(account, repository):
    return not repository.private or (
        account is not None and repository.namespace in account.namespaces
    )


def readable_repository(hub, request, repo_type, repo_id):
    """The repository of a call that reads file contents; a gated one needs access to those."""
    repository = find_repository(hub, request, repo_type, repo_id)
    account = request.account
    if repository.gated and account is None:
        raise HubError(
            401,
            f"Access to {repo_type} {repo_id} is restricted. You must be authenticated to access "
            "it.",
            "GatedRepo",
        )
    if (
        repository.gated
        and account.user not in repository.readers
        and repository.namespace not in account.namespaces
    ):
        raise HubError(
            403,
            f"Access to {repo_type} {repo_id} is restricted and you are not in the authorized "
            "list.",
            "GatedRepo",
        )
    return repository


def writable_repository(hub, request, repo_type, repo_id):
    """The repository of a call that writes."""
    repository = find_repository(hub, request, repo_type, repo_id)
    check_may_write(request.account, repository.namespace, repo_id)
    return repository


def check_may_write(account, namespace, repo_id=None):
    if account is None:
        raise HubError(401, "Invalid username or password.")
    if not account.may_write_to(namespace, repo_id):
        raise HubError(
            403, f"You don't have the rights to write under the namespace {namespace!r}."
        )


def whoami(hub, request):
    account = request.account
    if account is None:
        raise HubError(401, "Invalid username or password.")
    token = {
        "displayName": "loopback",
        "role": account.role,
        "createdAt": "2025-01-01T00:00:00.000Z",
    }
    roles = [(name, "write") for name in account.organizations] + [
        (name, "read") for name in account.readable
    ]
    organizations = [
        {"type": "org", "name": name, "fullname": name, "roleInOrg": role} for name, role in roles
    ]
    facts = {"type": "user", "name": account.user, "fullname": account.user, "orgs": organizations}
    return json_response(facts | {"auth": {"type": "access_token", "accessToken": token}})


def check_read(hub, request, repo_type, repo_id):
    readable_repository(hub, request, repo_type, repo_id)
    return json_response({})


def check_write(hub, request, repo_type, repo_id):
    writable_repository(hub, request, repo_type, repo_id)
    return json_response({})
