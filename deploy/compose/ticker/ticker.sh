#!/bin/sh
# Made-up stock prices, four events a second for ever. sse-publish sets the pace: awk waits for it.
# A shell waits for the end of a pipeline before it hears a signal, unless the pipeline is in the
# background.
trap 'exit 0' TERM INT

awk 'BEGIN {
  srand()
  count = split("ACME BOLT CRUX DYNE EPIC", symbols, " ")
  for (i = 1; i <= count; i++) price[i] = 50 + 200 * rand()
  while (1) {
    i = 1 + int(count * rand())
    price[i] *= 1 + (rand() - 0.5) / 50
    printf "{\"event\":\"price\",\"data\":{\"symbol\":\"%s\",\"price\":%.2f}}\n", symbols[i], price[i]
  }
}' | sse-publish stocks --format json --rate 4 --max-len 500 &
# Ends with what sse-publish ends with; the container is then started again.
wait $!
