-- Holds a room to its limits: events, seconds of age, seconds of idleness; 0 is no limit.
local key, maxlen, maxage, expire = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if maxlen > 0 then
  redis.call('XTRIM', key, 'MAXLEN', '~', ARGV[1])
end
if maxage > 0 then
  -- The server's clock, because that is the one in the ids.
  local oldest = redis.call('TIME')[1] - maxage
  if oldest > 0 then redis.call('XTRIM', key, 'MINID', '~', string.format('%.0f', oldest * 1000)) end
end
if expire > 0 then
  local left = redis.call('TTL', key)
  -- A publisher may have asked for longer; -1 is a room whose expiry nobody has set. (EXPIRE knows NX and GT from
  -- Redis 7 on only.)
  if left < expire and left ~= -2 then redis.call('EXPIRE', key, ARGV[3]) end
end
return 1
