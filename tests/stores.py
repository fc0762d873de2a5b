"""A store in memory whose clock is turned by hand, and which counts its requests."""


class Memory:
    """As `core.store.Store` has it."""

    def __init__(self):
        self.objects, self.now, self.requests = {}, 1000.0, 0

    def create(self, key, content):
        self.requests += 1
        entry = (content, self.now)
        return self.objects.setdefault(key, entry) is entry  # at once, whatever other threads do

    def put(self, key, content):
        self.requests += 1
        self.objects[key] = (content, self.now)

    def write(self, key, content):
        self.put(key, content)
        return self.now

    def read(self, key):
        self.requests += 1
        return self.objects.get(key, (None,))[0]

    def times(self, folder):
        self.requests += 1
        found = {key.rpartition("/"): written for key, (_, written) in self.objects.items()}
        return {name: written for (place, _, name), written in found.items() if place == folder}

    def names(self):
        self.requests += 1
        return {key.partition("/")[0] for key in self.objects}
