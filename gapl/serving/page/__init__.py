"""The page of the service, for people, and the route that sends it."""
