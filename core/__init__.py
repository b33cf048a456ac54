"""The interfaces and the verbs. Imports nothing of Mutoscope but itself."""
