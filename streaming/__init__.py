"""The stream: contracts, producers, the embedded broker, joins, metrics and the loop that predicts before it learns.

Import what is needed by its module: importing this room alone brings neither Kafka's client nor any learner, and it knows
neither Spark nor the store.
"""
