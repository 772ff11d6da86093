"""Who reads what: of a slice's hosts, which one reads a part from the bucket and gives it to the others."""

from collections.abc import Mapping, Set


def owners(sizes: list[int], missing: Mapping[int, Set[int]]) -> list[int]:
    """For each part the host that gives it to those without it.

    A host that has a part already is its owner, so that the bucket is not asked for it; else one that will read it. Of those
    that could be, it is the one with the fewest bytes so far: each host reads about the same, and gives about the same.

    Args:
        sizes: bytes of each part.
        missing: indices of the parts that each host lacks, by worker id.
    """
    given = dict.fromkeys(sorted(missing), 0)
    read = dict.fromkeys(sorted(missing), 0)
    found = []
    for index, size in enumerate(sizes):
        having = [host for host in given if index not in missing[host]]
        burden = given if having else read
        owner = min(having or burden, key=lambda host: (burden[host], host))
        if len(having) < len(given):
            burden[owner] += size
        found.append(owner)
    return found
