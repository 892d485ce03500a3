local residue -- Of the numbers that a server gives: the function keeps it, a script makes one for each event.
local key, argc, call = KEYS[1], #ARGV, redis.call
local first, last = string.find(key or '', 'room:[%w._~:@-]+$')
if not first or last - first > 132 or (last - first < 7 and string.find(key, 'room:%.%.?$')) then
  return redis.error_reply('ERR sse: the key must be <prefix>room:<room>, and a room name is 1 to 128 ASCII letters, digits and . _ ~ : @ -')
end
if argc % 2 == 1 then
  return redis.error_reply('ERR sse: arguments come in pairs of a name and a value')
end
local event, data, once, head
-- Numbers for redis.call are kept as text: formatting one costs as much as a small command.
local maxlen, maxage, expire, onceexpire, maxbytes = '1000', 0, '86400', '300', 65536
local publish, full, extra = 'PUBLISH', false, nil
for i = 1, argc, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if name == 'data' then
    data = value
  elseif name == 'event' then
    event = value
  elseif name == 'once' then
    once = value
  elseif name == 'reply' then
    full = value == 'full'
  elseif name == 'maxlen' or name == 'maxage' or name == 'expire' or name == 'onceexpire' or name == 'maxbytes' or name == 'sharded' then
    local number = tonumber(value)
    if not number or number < 0 or number > 9007199254740991 or number % 1 ~= 0 then
      return redis.error_reply('ERR sse: ' .. name .. ' needs a whole number, not ' .. string.sub(value, 1, 64))
    end
    local text = number > 0 and string.format('%.0f', number)
    if name == 'maxlen' then maxlen = text
    elseif name == 'maxage' then maxage = number
    elseif name == 'expire' then expire = text
    elseif name == 'onceexpire' then onceexpire = text
    elseif name == 'maxbytes' then maxbytes = number
    elseif number == 1 then publish = 'SPUBLISH' end
  elseif name == 'traceparent' or name == 'tracestate' or string.find(name, '^x%-[%w_-]+$') then
    if #name > 64 or (extra and #extra >= 32) then
      return redis.error_reply('ERR sse: at most 16 extension fields, with names of at most 64 bytes')
    end
    if #value > 1024 or string.find(value, '[%c]') then
      return redis.error_reply('ERR sse: ' .. name .. ' has at most 1024 bytes and no control characters')
    end
    extra = extra or {}
    extra[#extra + 1] = name
    extra[#extra + 1] = value
  else
    return redis.error_reply('ERR sse: unknown argument ' .. string.sub(name, 1, 64) .. '; known are event data maxlen maxage expire once onceexpire maxbytes sharded reply traceparent tracestate x-...')
  end
end
if not data then
  return redis.error_reply('ERR sse: the argument data is missing')
end
if #data > maxbytes then
  return redis.error_reply('ERR sse: event data has ' .. #data .. ' bytes, over the limit of ' .. maxbytes)
end
if event and (#event > 256 or not string.find(event, '^[%w_-]+$')) then
  if #event > 256 then
    return redis.error_reply('ERR sse: an event name has at most 256 bytes')
  elseif string.find(event, '[\r\n%z]') then
    return redis.error_reply('ERR sse: an event name must not contain CR, LF or NUL')
  elseif string.sub(event, 1, 7) == 'stream.' then
    return redis.error_reply("ERR sse: event names that begin with 'stream.' are the gateway's own: choose another name")
  elseif event == '' then
    event = nil
  end
end

local oncekey
if once then
  if #once < 1 or #once > 256 then
    return redis.error_reply('ERR sse: an idempotency key has 1 to 256 bytes')
  end
  oncekey = '{' .. key .. '}:once:' .. once
end
if KEYS[2] and KEYS[2] ~= oncekey then
  return redis.error_reply('ERR sse: a second key must be {<key>}:once:<idempotency key>')
end
if oncekey then
  local id = call('GET', oncekey)
  if id then
    if full then return { id, '', 1 } end
    return id
  end
end

local newest = call('XREVRANGE', key, '+', '-', 'COUNT', '1')[1]
local prev = newest and newest[1] or '0-0'
-- Redis's own `*` numbers most events 0, so two primaries side by side (a failover that is ordered while the old one lives)
-- would give two events of one millisecond one id. Here a server's numbers are all of one residue class modulo 65,536, and
-- not of that of 0.
local now = call('TIME')
local micros = now[2]
if #micros < 6 then micros = string.sub('00000' .. micros, -6) end
if not residue then
  local random = tonumber(string.sub(redis.sha1hex(now[1] .. micros .. prev .. data), 1, 4), 16)
  residue = string.format('%d', random % 65535 + 1)
end
local ms = now[1] .. string.sub(micros, 1, 3)
local dash = string.find(prev, '-', 1, true)
local id
-- Text of as many digits sorts as numbers do.
if dash <= #ms or (dash == #ms + 1 and string.sub(prev, 1, #ms) < ms) then
  id = ms .. '-' .. residue
else
  -- The millisecond of the event before, or a clock behind it.
  local number = tonumber(string.sub(prev, dash + 1))
  id = string.sub(prev, 1, dash) .. string.format('%.0f', number + 65536 - (number - residue) % 65536)
end
local fields
if extra then
  fields = event and { 'event', event, 'data', data, 'prev', prev } or { 'data', data, 'prev', prev }
  head = ''
  for i = 1, #extra, 2 do
    fields[#fields + 1] = extra[i]
    fields[#fields + 1] = extra[i + 1]
    head = head .. extra[i] .. ': ' .. extra[i + 1] .. '\n'
  end
end
local xadd, added = redis.pcall, nil
while true do
  if fields and maxlen then
    added = xadd('XADD', key, 'MAXLEN', '~', maxlen, id, unpack(fields))
  elseif fields then
    added = xadd('XADD', key, id, unpack(fields))
  elseif event and maxlen then
    added = xadd('XADD', key, 'MAXLEN', '~', maxlen, id, 'event', event, 'data', data, 'prev', prev)
  elseif event then
    added = xadd('XADD', key, id, 'event', event, 'data', data, 'prev', prev)
  elseif maxlen then
    added = xadd('XADD', key, 'MAXLEN', '~', maxlen, id, 'data', data, 'prev', prev)
  else
    added = xadd('XADD', key, id, 'data', data, 'prev', prev)
  end
  if type(added) == 'string' then break end
  -- Refused: most likely the stream's last id is above its newest entry, because a later one was deleted. Redis makes the
  -- id then, or says what is wrong.
  xadd, id = call, '*'
end
id = added
if maxage > 0 then
  local oldest = now[1] - maxage
  if oldest > 0 then call('XTRIM', key, 'MINID', '~', string.format('%.0f', oldest * 1000)) end
end
if expire then
  -- Once a tenth of it has passed is often enough: each EXPIRE goes to replicas, to the append-only file and to whoever
  -- listens for changes of keys.
  local seconds = tonumber(expire)
  local left = seconds < 60 and -1 or call('TTL', key)
  if left * 10 < seconds * 9 or left > seconds then call('EXPIRE', key, expire) end
else
  call('PERSIST', key)
end
if oncekey and onceexpire then
  call('SET', oncekey, id, 'EX', onceexpire)
end
call(publish, key, 'SSE/1 ' .. id .. ' ' .. prev .. (event and '\nevent: ' .. event .. '\n' or '\n') .. (head or '') .. '\n' .. data)
if full then return { id, prev, 0 } end
return id
